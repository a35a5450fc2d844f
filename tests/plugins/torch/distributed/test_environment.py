"""Rank, world and meeting point from torchrun, Slurm and MPI, and devices by kind."""

from __future__ import annotations

import pytest
import torch

from nexa.errors import UserError
from nexa_torch.distributed import environment as module
from nexa_torch.distributed.devices import DeviceManager
from nexa_torch.distributed.environment import RankEnvironment, detect_environment, expand_hosts

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "7",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_TASKS_PER_NODE": "4,3",
}
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "29400",
}


@pytest.fixture(autouse=True)
def _no_scontrol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)


def test_torchrun_comes_first() -> None:
    found = detect_environment({**SLURM, **TORCHRUN, "OMPI_COMM_WORLD_RANK": "9"})
    assert found == RankEnvironment(
        rank=3,
        local_rank=1,
        world_size=4,
        local_world_size=2,
        master_addr="a",
        master_port=29400,
        source="torchrun",
    )


def test_slurm_comes_before_mpi() -> None:
    found = detect_environment({**SLURM, "PMI_RANK": "0", "PMI_SIZE": "1"})
    assert (found.source, found.rank, found.local_rank, found.world_size) == ("Slurm", 5, 1, 7)
    assert (found.local_world_size, found.master_addr) == (3, "gpu03")
    assert found.master_port is not None
    assert 20000 <= found.master_port < 40000
    # All tasks of a job work out the same port, another job another one.
    assert detect_environment({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).master_port == found.master_port
    assert detect_environment({**SLURM, "SLURM_JOB_ID": "4712"}).master_port != found.master_port


def test_open_mpi_on_one_machine() -> None:
    variables = {
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    found = detect_environment(variables)
    assert (found.source, found.rank, found.world_size, found.master_addr) == ("MPI", 1, 2, "127.0.0.1")


def test_a_single_process() -> None:
    assert detect_environment({}) == RankEnvironment()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4"),
        ({**TORCHRUN, "RANK": "three"}, "RANK='three'"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not"),
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({**SLURM, "SLURM_JOB_NODELIST": ""}, "no node list"),
        ({**SLURM, "SLURM_JOB_NODELIST": "gpu[03-04"}, "bracket"),
        ({**SLURM, "SLURM_LOCALID": "3"}, "local rank 3 of 3"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            "several machines and MASTER_ADDR",
        ),
    ],
)
def test_contradictions_are_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        detect_environment(variables)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("r[1-2]n[08-10]", ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]),
        ("n[9-11].cluster", ["n9.cluster", "n10.cluster", "n11.cluster"]),
    ],
)
def test_node_lists(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize("text", ["", "a[1-", "a]", "a[x]", "a[1-2-3]"])
def test_broken_node_lists(text: str) -> None:
    with pytest.raises(UserError, match="node list"):
        expand_hosts(text)


def test_the_cpu_is_always_there() -> None:
    choice = DeviceManager("cpu").choose(3)
    assert (choice.device, choice.backend) == (torch.device("cpu"), "gloo")


def test_a_device_that_is_not_here() -> None:
    missing = next(kind for kind, count in DeviceManager.available().items() if not count)
    with pytest.raises(UserError, match=f"asks for {missing}") as caught:
        DeviceManager(missing).choose()
    assert "cpu" in caught.value.message
    with pytest.raises(UserError, match="unknown device"):
        DeviceManager("abacus")


def test_auto_says_why() -> None:
    choice = DeviceManager().choose()
    assert choice.reason
    assert DeviceManager.available()[choice.device.type] > 0
