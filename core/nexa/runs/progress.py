"""A run's progress as its events tell it: phase, step, speed, time left. Shared by all displays."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nexa.events import PREPARATION

_WINDOW_STEPS = 50


@dataclass
class Progress:
    """Where a run stands; fed with event records in order.

    step, total_steps: optimizer steps. share: how much of a preparing phase is done, None where
    unknown. values: newest metrics by name, of training and evaluation.
    """

    phase: str = "starting"
    step: int | None = None
    total_steps: int | None = None
    share: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW_STEPS))

    def update(self, record: Mapping[str, Any]) -> None:
        """Take in one event record; types that say nothing about progress are ignored."""
        kind = record.get("type")
        if kind == "start":
            self.phase = "starting"
            self._recent.clear()
        elif kind == "progress":
            self._advance(record)
        elif kind in ("metrics", "eval"):
            self.values.update({k: v for k, v in (record.get("values") or {}).items() if v is not None})

    def _advance(self, record: Mapping[str, Any]) -> None:
        phase = str(record.get("phase") or self.phase)
        if phase != self.phase:
            # Evaluating or saving is no slower training; only time spent in steps counts.
            self._recent.clear()
        self.phase = phase
        step, total = record.get("step"), record.get("total_steps")
        self.share = step / total if phase in PREPARATION and step is not None and total else None
        if step is None or phase in PREPARATION:
            return
        self.step = step
        self.total_steps = total or self.total_steps
        if phase == "training" and (not self._recent or step > self._recent[-1][1]):
            self._recent.append((float(record["ts"]), step))

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds to the last step at the newest speed; None where unknown."""
        if self.step is None or self.total_steps is None:
            return None
        per_step = self.values.get("step_seconds")
        if len(self._recent) >= 2:
            (first_ts, first), (last_ts, last) = self._recent[0], self._recent[-1]
            per_step = (last_ts - first_ts) / (last - first)
        return None if per_step is None else per_step * max(0, self.total_steps - self.step)
