"""Loss on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from nexa_torch.batches import to_device
from nexa_torch.engine.meter import WeightedSums

if TYPE_CHECKING:
    from torch import nn

    from nexa_torch.distributed.ranks import Ranks
    from nexa_torch.tasks.base import TrainingTask


@torch.no_grad()
def evaluate(
    task: TrainingTask,
    model: nn.Module,
    criterion: nn.Module,
    batches: Iterable[Any],
    ranks: Ranks,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    stop_requested: Callable[[], bool],
    idle_batch: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Return "eval_loss" and the task's figures as "eval_NAME", or nothing when asked to stop on the way.

    Each is a mean weighted by `task.batch_weight`, so it depends on neither batch size nor number of
    ranks. A stop asked of any rank ends the evaluation on all. idle_batch: gives what a rank computes on
    while others still have batches, where all must compute together.
    """
    model.eval()
    sums = WeightedSums()
    remaining = iter(batches)
    while True:
        batch = next(remaining, None)
        having, stopping = ranks.sum_counts(int(batch is not None), int(stop_requested()))
        if stopping:
            return {}
        if not having:
            break
        if batch is None and idle_batch is None:
            continue
        counts = batch is not None
        batch = idle_batch() if batch is None and idle_batch is not None else batch
        weight = task.batch_weight(batch)
        with autocast():
            loss, figures = task.validation_step(to_device(batch, ranks.device), model, criterion)
        if counts:
            sums.add({"loss": loss, **figures}, weight)
    means = sums.means(ranks)
    return task.summarize({f"eval_{name}": value for name, value in means.items()}) if means else {}
