"""Several worker processes as one: who this process is, and exact sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from nexa.errors import UserError, WorkerError

_BUCKET_BYTES = 64 << 20
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The group of worker processes, and the device of this one."""

    rank: int
    world_size: int
    device: torch.device

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
        return counts if self.world_size == 1 else tuple(self.sum(torch.tensor(counts, device=self.device)).tolist())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks get the same answer."""
        return self.sum_counts(int(flag))[0] > 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients over all ranks, bucket by bucket; a missing gradient counts as zero.

        The engine divides each rank's loss by the token count of all ranks, so the sum is exactly
        the gradient of the whole batch's mean loss.
        """
        if self.world_size == 1:
            return
        for bucket in _buckets(parameters):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            torch._foreach_copy_(
                [gradient.view(-1) for gradient in gradients], flat.split([g.numel() for g in gradients])
            )


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
        if size >= _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


@contextmanager
def process_group(rank: int, local_rank: int, world_size: int, *, gpus: int) -> Iterator[Ranks]:
    """Join the group that the launcher's variables describe, for as long as the block runs.

    gpus: GPUs the recipe asks for on each node; 0 trains on CPU. Raises UserError without a usable
    GPU, and WorkerError where the launcher left no rendezvous.
    """
    if gpus:
        if not torch.cuda.is_available():
            raise UserError(
                f"the recipe asks for {gpus} GPUs and torch sees none",
                hint="set cluster.gpus_per_node=0 to train on CPU, or install a CUDA build of torch; see: nexa doctor",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world_size > 1:
        if "MASTER_ADDR" not in os.environ:
            raise WorkerError("several processes were started without MASTER_ADDR, so they can't meet")
        dist.init_process_group("nccl" if gpus else "gloo", rank=rank, world_size=world_size, timeout=_TIMEOUT)
    try:
        yield Ranks(rank=rank, world_size=world_size, device=device)
    finally:
        if world_size > 1:
            dist.destroy_process_group()
