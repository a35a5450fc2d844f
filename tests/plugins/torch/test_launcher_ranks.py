"""Which of a launcher's processes a foreground run is, for the backend and in the contract's default."""

from __future__ import annotations

import pytest

from nexa.errors import UserError
from nexa.worker.place import LauncherRanks
from nexa_torch.backend import TorchBackend

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "a", "SLURM_JOB_ID": "7"}


def test_torchrun() -> None:
    expected = LauncherRanks(rank=3, local_rank=1, world_size=4, local_world_size=2)
    assert LauncherRanks.from_environment(TORCHRUN) == TorchBackend().launcher_ranks(TORCHRUN) == expected
    assert expected.num_nodes == 2


def test_a_slurm_step_but_not_the_shell_of_an_allocation() -> None:
    ranks = TorchBackend().launcher_ranks({**SLURM, "SLURM_STEP_ID": "0"})
    assert ranks == LauncherRanks(rank=1, local_rank=1, world_size=2, local_world_size=2)
    assert TorchBackend().launcher_ranks(SLURM) is None


def test_no_launcher() -> None:
    assert LauncherRanks.from_environment({}) is None
    assert TorchBackend().launcher_ranks({}) is None


@pytest.mark.parametrize(
    "wrong", [{"RANK": "4"}, {"RANK": "x"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "3"}, {"WORLD_SIZE": "0"}]
)
def test_contradictions(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError):
        LauncherRanks.from_environment({**TORCHRUN, **wrong})
