"""Gradients that every process has a part of, made the same on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

BUCKET_BYTES = 64 << 20
"""Gradients travel in pieces of about this size: large enough to use the network, small enough to overlap."""


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> Tensor:
    """Global L2 norm of the gradients as a plain tensor, the same on every rank also where they are sharded."""
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class GradientSynchronizer:
    """Adds the gradients of parameters over all ranks, bucket by bucket.

    Each rank calls `sum` (or `mean`) after its last backward pass of an optimizer step. Inside
    `overlapping`, a bucket starts its way as soon as the backward pass has completed it, while earlier
    layers are still being computed; buckets always start in the same order, so that ranks whose
    gradients become ready in different orders, or that have no data at all, still meet.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        world_size: int | None = None,
        group: dist.ProcessGroup | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        if world_size is None:
            world_size = dist.get_world_size(group) if dist.is_initialized() else 1
        self._world_size = world_size
        self._group = group
        # The backward pass finishes the last layers first.
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._buckets = [_Bucket(members) for members in _split(reversed(trained), bucket_bytes)]
        self._next = 0

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        """Send gradients while the backward pass inside the block computes: for a step's last one only."""
        if self._world_size == 1:
            yield
            return
        hooks = []
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
            for parameter in bucket.parameters:
                hooks.append(parameter.register_post_accumulate_grad_hook(self._arrival(bucket)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def sum(self) -> None:
        """Leave in every parameter, on every rank, the sum of its gradients; a missing one counts as zero."""
        if self._world_size == 1:
            return
        while self._next < len(self._buckets):
            self._send_next()
        self._next = 0
        for bucket in self._buckets:
            bucket.receive()

    def mean(self) -> None:
        """Leave in every parameter, on every rank, the mean over ranks of its gradients."""
        self.sum()
        gradients = [p.grad for bucket in self._buckets for p in bucket.parameters if p.grad is not None]
        if self._world_size > 1 and gradients:
            torch._foreach_div_(gradients, float(self._world_size))

    def _arrival(self, bucket: _Bucket):  # type: ignore[no-untyped-def]
        def arrived(parameter: torch.nn.Parameter) -> None:
            bucket.missing -= 1
            while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
                self._send_next()

        return arrived

    def _send_next(self) -> None:
        self._buckets[self._next].send(self._group)
        self._next += 1


class _Bucket:
    """Parameters of one kind whose gradients travel together."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    def send(self, group: dist.ProcessGroup | None) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._flat = torch.cat([gradient.flatten() for gradient in self._gradients()])
        self._work = dist.all_reduce(self._flat, group=group, async_op=True)

    def receive(self) -> None:
        assert self._flat is not None, "a bucket is sent before it is received"
        assert self._work is not None, "a bucket is sent before it is received"
        self._work.wait()
        gradients = self._gradients()
        parts = self._flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_([gradient.view(-1) for gradient in gradients], list(parts))
        self._flat = self._work = None

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


def _split(parameters: Iterable[torch.nn.Parameter], limit: int) -> Iterator[list[torch.nn.Parameter]]:
    """Runs of neighbouring parameters of one dtype, each of about `limit` bytes."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= limit or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket
