"""What happened between two log records, kept on the device until one is written."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nexa_torch.distributed.ranks import Ranks
    from nexa_torch.tasks.base import TrainingTask


@dataclass
class Meter:
    """Figures since the last record. units, weight: over all ranks. totals: this rank's weighted sums."""

    losses: list[tuple[int, Tensor]] = field(default_factory=list)
    grad_norm: Tensor | None = None
    steps: int = 0
    units: int = 0
    weight: int = 0
    seconds: float = 0.0
    totals: WeightedSums = field(default_factory=lambda: WeightedSums())

    def record(self, task: TrainingTask, *, units_seen: int, device: torch.device) -> dict[str, float]:
        """What a log record says of speed and size; reading the norm waits for the device."""
        speeds = {task.unit: self.units, **({task.weight_unit: self.weight} if task.weight_unit else {})}
        return {
            "grad_norm": float(self.grad_norm) if self.grad_norm is not None else 0.0,
            **{f"{unit}_per_second": count / self.seconds for unit, count in speeds.items()},
            task.unit: units_seen,
            "step_seconds": self.seconds / self.steps,
            "memory_bytes": peak_memory_bytes(device),
        }


class WeightedSums:
    """Weighted sums of named figures, added on the device and read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight = 0

    def add(self, figures: Mapping[str, Any], weight: int) -> None:
        """Add the figures of a batch, each a mean over `weight` things: scalar tensors or numbers."""
        self._weight += weight
        for name, value in figures.items():
            part = torch.as_tensor(value).detach().to(torch.float64, copy=False) * weight
            self._sums[name] = self._sums[name] + part if name in self._sums else part

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Means over all ranks, empty where there are no figures; to be called on every rank.

        A rank without batches knows no names of its own, so rank 0's hold.
        """
        names = json.loads(share_text(ranks, json.dumps(sorted(self._sums))))
        if not names:
            return {}
        zero = torch.zeros((), dtype=torch.float64, device=ranks.device)
        sums = [self._sums.get(name, zero).to(ranks.device) for name in names]
        total = ranks.sum(torch.stack([*sums, zero + self._weight])).tolist()
        weight = total.pop()
        return {name: value / max(1.0, weight) for name, value in zip(names, total, strict=True)}


def share_text(ranks: Ranks, text: str) -> str:
    """Rank 0's text, on every rank."""
    if ranks.world_size == 1:
        return text
    own = text.encode() if ranks.is_main else b""
    (length,) = ranks.sum_counts(len(own))
    codes = torch.zeros(length, dtype=torch.int32, device=ranks.device)
    if ranks.is_main:
        codes[:] = torch.tensor(list(own), dtype=torch.int32)
    return bytes(ranks.sum(codes).tolist()).decode()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
