"""Tensors that are spread over ranks, in one plain safetensors file that all ranks write together.

The file is the same whoever wrote it: one process, copies, or shards on any number of ranks. So a run
continues with another number of processes or another strategy, and any tool reads the file. Each rank
writes its part at the place where the format wants it: nothing is gathered, nothing is written twice,
and there is no metadata file beside it (torch's own storage would pickle one). All ranks see the same
folder, as the run directory promises.

Planning, and who writes what of a tensor that several ranks hold, is torch.distributed.checkpoint's.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from nexa.errors import WorkerError

_DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: Mapping[str, torch.dtype] = {name: dtype for dtype, name in _DTYPES.items()}
"""Torch's dtype for each name in a safetensors header."""
_ALIGNMENT = 8


class TensorFileWriter(StorageWriter):
    """Writes one safetensors file of a known layout, every rank its own parts of it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between saves."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The plan says all there is to know."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Every rank's part is as the planner wants it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the coordinator: lay the file out, make it at its full size, and tell everyone the places.

        Its space is taken now, so that a full disk is found before anything is written.
        """
        header, places = _layout([item for plan in plans for item in plan.items])
        size = len(header) + max((end for _, end in places.values()), default=0)
        with self._file.open("xb") as file:
            file.write(header)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            os.fsync(file.fileno())
        starts = {name: len(header) + start for name, (start, _) in places.items()}
        return [replace(plan, storage_data=starts) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts, durably."""
        results = []
        with self._file.open("r+b", buffering=0) as file:
            for item in plan.items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, Tensor), "the file holds tensors only"
                assert item.tensor_data is not None, "the file holds tensors only"
                length = _write_part(file.fileno(), plan.storage_data[item.index.fqn], item, tensor)
                results.append(WriteResult(index=item.index, size_in_bytes=length, storage_data=None))
            os.fsync(file.fileno())
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The file's own header is all the metadata there is."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Files are named when the writer is made, not by a checkpoint id."""
        return False

    def storage_meta(self) -> StorageMeta | None:
        """Nothing beside the file."""
        return None


def save_tensors(file: Path, tensors: Mapping[str, Tensor], *, group: dist.ProcessGroup | None = None) -> None:
    """Write tensors, plain or spread (DTensor), into one new safetensors file; called by all ranks alike.

    group: the ranks, None for a process alone. Of a plain tensor that several ranks hold one copy is
    written. When this returns on any rank, the parts of all ranks are on disk. Raises WorkerError on
    every rank, with the reason, when one of them can't write.
    """
    try:
        dcp.save(dict(tensors), storage_writer=TensorFileWriter(file), process_group=group, no_dist=group is None)
    except dcp.CheckpointException as error:
        raise _unwritable(file, error.failures) from error
    except OSError as error:
        raise _unwritable(file, {0: (error, None)}) from error


def load_tensors(file: Path, into: Mapping[str, Tensor], *, group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors, plain or spread, from a safetensors file; each rank reads only its own parts.

    `file` is the only safetensors file of its folder. Raises WorkerError where the file lacks one or
    holds it in another shape.
    """
    saved = read_header(file)
    for name, tensor in into.items():
        if name not in saved:
            raise WorkerError(f"{file} holds no tensor {name!r}")
        if tuple(saved[name]["shape"]) != tuple(tensor.shape):
            raise WorkerError(f"{file}: {name!r} has shape {saved[name]['shape']}, not {list(tensor.shape)}")
    reader = dcp.HuggingFaceStorageReader(str(file.parent))
    dcp.load(dict(into), storage_reader=reader, process_group=group, no_dist=group is None)


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Shape and dtype of every tensor of a safetensors file, by name: {"dtype": "F32", "shape": [2, 3], …}.

    Raises WorkerError for a file that is none.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
    except (OSError, ValueError, struct.error) as error:
        raise WorkerError(f"{file} can't be read as safetensors: {error}") from error
    header.pop("__metadata__", None)
    return dict(header)


def _layout(items: Sequence[WriteItem]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The file's header, and where each tensor begins and ends behind it: in order of names."""
    kinds: dict[str, tuple[torch.dtype, list[int]]] = {}
    for item in items:
        assert item.tensor_data is not None, "the file holds tensors only"
        kinds[item.index.fqn] = (item.tensor_data.properties.dtype, list(item.tensor_data.size))
    places: dict[str, tuple[int, int]] = {}
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    # Wide types first, so that every tensor begins at a multiple of its own width.
    for name in sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name)):
        dtype, shape = kinds[name]
        end = position + math.prod(shape) * dtype.itemsize
        places[name] = (position, end)
        document[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text, places


def _write_part(descriptor: int, start: int, item: WriteItem, tensor: Tensor) -> int:
    """Write one part of a tensor that begins at byte `start`; returns the bytes written."""
    assert item.tensor_data is not None
    whole, chunk = list(item.tensor_data.size), item.tensor_data.chunk
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    width = tensor.dtype.itemsize
    at = 0
    for position, count in _runs(whole, list(chunk.offsets), list(chunk.sizes)):
        _write_all(descriptor, data[at : at + count * width], start + position * width)
        at += count * width
    return at


def _runs(whole: list[int], offsets: list[int], sizes: list[int]) -> Iterator[tuple[int, int]]:
    """(place, count) of the unbroken runs of elements that a part of a tensor covers, in the part's order."""
    if math.prod(sizes) == 0:
        return
    # From this dimension on the part is as wide as the tensor, so it is unbroken.
    split = len(whole)
    while split > 0 and sizes[split - 1] == whole[split - 1]:
        split -= 1
    split = max(split - 1, 0)
    inner = math.prod(whole[split + 1 :])
    count = math.prod(sizes[split:]) if whole else 1
    for outer in _indices(sizes[:split]):
        place = 0
        for dimension, index in enumerate(outer):
            place = place * whole[dimension] + offsets[dimension] + index
        if whole:
            place = (place * whole[split] + offsets[split]) * inner
        yield place, count


def _indices(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    if not sizes:
        yield ()
        return
    for first in range(sizes[0]):
        for rest in _indices(sizes[1:]):
            yield (first, *rest)


def _write_all(descriptor: int, data: Any, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _unwritable(file: Path, failures: Mapping[int, Any]) -> WorkerError:
    rank, (error, _) = next(iter(sorted(failures.items())))
    words = getattr(error, "strerror", None) or str(error)
    return WorkerError(
        f"rank {rank} can't write {file}: {words}", hint="free space or permissions there, then: nexa resume"
    )
