"""Several worker processes as one: who this process is, and exact sums over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nexa.errors import NexaError, WorkerError
from nexa_torch.distributed.synchronize import GradientSynchronizer

if TYPE_CHECKING:
    from nexa_torch.distributed.presence import Presence

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The group of worker processes, and the device of this one. local_rank: counts on its machine.

    background: a group of its own on the CPU, for a thread that saves while training goes on. control:
    another, for counts and flags, so that no GPU is waited for. presence: who else is there. All None with
    one process.
    """

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    background: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)
    control: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)
    presence: Presence | None = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes metrics and checkpoints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor over all ranks, in place; returns it."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def sum_counts(self, *counts: int) -> tuple[int, ...]:
        """Add integers over all ranks."""
        if self.world_size == 1:
            return counts
        total = torch.tensor(counts)
        dist.all_reduce(total, group=self.control)
        return tuple(total.tolist())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks get the same answer."""
        return self.sum_counts(int(flag))[0] > 0

    def largest(self, value: int) -> int:
        """The largest of all ranks' integers."""
        if self.world_size == 1:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.control)
        return int(found)

    def gather(self, mark: str, flag: bool = False) -> bool:
        """Wait until every rank has come to a place in the program; returns whether any set the flag.

        No collective: there is no time-out while all live, and waiting costs the machine nothing. Raises
        the error of a rank that failed on its way, and WorkerError naming one that ended.
        """
        return flag if self.presence is None else self.presence.gather(mark, flag)

    def from_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone and return what it returned on every rank; a NexaError it raises, too."""
        said: list[Any] = [None]
        if self.is_main:
            try:
                said = [work()]
            except NexaError as error:
                said = [error]
        if self.background is not None:
            dist.broadcast_object_list(said, src=0, group=self.background)
        if isinstance(said[0], NexaError):
            raise said[0]
        result: T = said[0]
        return result

    def raise_together(self, error: Exception | None, *, work: str) -> None:
        """Raise on every rank where one of them failed; `work` names what, as in "save a checkpoint"."""
        failed = self.any(error is not None)
        if error is not None:
            raise error
        if failed:
            raise WorkerError(f"another rank could not {work}", hint="its log says why: nexa logs")

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients over all ranks; a missing gradient counts as zero.

        The engine divides each rank's loss by the weight of all ranks, so the sum is exactly the
        gradient of the whole batch's mean loss.
        """
        GradientSynchronizer(parameters, world_size=self.world_size).sum()
