"""The file that all ranks write together is plain safetensors, whatever part each of them has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).parent))
from starting import start

from nexa.errors import WorkerError
from nexa_torch.distributed.synchronize import GradientSynchronizer, gradient_norm
from nexa_torch.distributed.tensor_file import _runs, load_tensors, read_header, save_tensors


def tensors() -> dict[str, torch.Tensor]:
    """Every dtype, odd sizes, a scalar, an empty one."""
    torch.manual_seed(0)
    return {
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "byte": torch.arange(7, dtype=torch.uint8),
        "flag": torch.tensor([True, False]),
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "view": torch.randn(6, 4).t(),
        "long": torch.arange(5),
    }


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_safetensors_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_tensors(file, tensors())
    found = load_file(file)
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in tensors().items())
    header = read_header(file)
    # A tensor begins at a multiple of its element's width, so that it can be mapped.
    assert all(entry["data_offsets"][0] % tensors()[name].itemsize == 0 for name, entry in header.items())


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name, state in (("a", tensors()), ("b", dict(reversed(tensors().items())))):
        save_tensors(tmp_path / name, state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    save_file({name: value.contiguous() for name, value in tensors().items()}, tmp_path / "x.safetensors")
    found = {name: torch.empty_like(value) for name, value in tensors().items()}
    load_tensors(tmp_path / "x.safetensors", found)
    assert all(torch.equal(found[name], value) for name, value in tensors().items())


@pytest.mark.usefixtures("alone")
def test_distributed_tensors(tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (1,))
    whole = torch.randn(5, 3)
    spread = {"rows": distribute_tensor(whole, mesh, [Shard(0)]), "copy": distribute_tensor(whole, mesh, [Replicate()])}
    save_tensors(tmp_path / "x.safetensors", spread, group=dist.group.WORLD)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["rows"], whole)
    empty = {name: torch.zeros_like(value) for name, value in spread.items()}
    load_tensors(tmp_path / "x.safetensors", empty, group=dist.group.WORLD)
    assert torch.equal(empty["rows"].full_tensor(), whole)


@pytest.mark.soak
def test_shards_of_two_one_and_three_ranks_write_the_same_bytes(tmp_path: Path) -> None:
    """Rows that no number of ranks divides, and fewer rows than ranks."""
    first = tmp_path / "0.safetensors"
    save_tensors(first, {"a": torch.randn(7, 5), "b": torch.randn(2), "c": torch.randn(4, 3, 2).bfloat16()}, group=None)
    for number, ranks in enumerate((2, 1, 3)):
        files = [str(tmp_path / f"{n}.safetensors") for n in (number, number + 1)]
        start("reshard_worker.py", *files, world_size=ranks).succeed()
        assert Path(files[1]).read_bytes() == first.read_bytes()


def test_parts_of_any_shape_fall_into_place() -> None:
    whole = torch.arange(4 * 5 * 6).reshape(4, 5, 6)
    for offsets, sizes in (
        ([1, 0, 0], [2, 5, 6]),
        ([0, 2, 0], [4, 3, 6]),
        ([1, 1, 2], [2, 2, 3]),
        ([3, 4, 5], [1, 1, 1]),
    ):
        part = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))].reshape(-1)
        runs = _runs([4, 5, 6], list(offsets), list(sizes))
        found = torch.cat([whole.reshape(-1)[at : at + count] for at, count in runs])
        assert torch.equal(found, part)
    assert list(_runs([4, 5], [0, 0], [4, 5])) == [(0, 20)]
    assert list(_runs([], [], [])) == [(0, 1)]


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(WorkerError, match=r"can't write .*missing"):
        save_tensors(tmp_path / "missing" / "x.safetensors", tensors())
    save_tensors(file, {"a": torch.zeros(2)})
    with pytest.raises(WorkerError, match="no tensor 'b'"):
        load_tensors(file, {"b": torch.zeros(2)})
    with pytest.raises(WorkerError, match=r"shape \[2\], not \[3\]"):
        load_tensors(file, {"a": torch.zeros(3)})
    file.write_bytes(b"PK\x03\x04 a pickle in a zip file")
    with pytest.raises(WorkerError, match="can't be read as safetensors"):
        read_header(file)


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs a small file system")
def test_a_full_disk_is_found_before_anything_is_written(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(WorkerError, match=r"rank 0 can't write .*No space left"):
            save_tensors(small / "x.safetensors", {"a": torch.zeros(100_000)})
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("overlapping", [False, True])
def test_gradients_come_back_as_they_were_from_one_rank(overlapping: bool) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 2).bfloat16().float())
    unused = torch.nn.Parameter(torch.zeros(3))
    # Two ranks' worth of calls on a group of one: the sum is the gradient itself, the mean half of it.
    synchronizer = GradientSynchronizer([*layers.parameters(), unused], world_size=2, bucket_bytes=16)
    data = torch.randn(5, 3)
    loss = layers(data).square().sum()
    if overlapping:
        with synchronizer.overlapping():
            loss.backward()
    else:
        loss.backward()
    synchronizer.mean()
    expected = torch.autograd.grad(layers(data).square().sum(), list(layers.parameters()))
    for parameter, gradient in zip(layers.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient / 2)
    assert torch.equal(unused.grad, torch.zeros(3))
    norm = torch.stack([gradient.square().sum() for gradient in expected]).sum().sqrt() / 2
    assert torch.allclose(gradient_norm(layers.parameters()), norm)
