"""A run's progress as its events tell it: phase, step, speed, time left. Shared by all displays."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
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
        return seconds_left(self.step, self.total_steps, per_step)


def seconds_left(step: int | None, total_steps: int | None, step_seconds: float | None) -> float | None:
    """Expected seconds from `step` to the last at `step_seconds` each; None where any is unknown."""
    if step is None or total_steps is None or step_seconds is None:
        return None
    return step_seconds * max(0, total_steps - step)


@dataclass(frozen=True, kw_only=True)
class TimeLeft:
    """Seconds to the last step: expected, and the ends of the interval that holds them with 95 % probability."""

    expected: float
    low: float
    high: float


def time_left(times: Sequence[float], steps: Sequence[int], total_steps: int) -> TimeLeft | None:
    """How long the rest of a run takes, from when its newest steps were taken; None from fewer than three.

    times: unix seconds of each point, steps: its optimizer step, both ascending. The rest is a sum of
    as many step times as are left, each with the mean m and variance v observed; its mean is known from
    n observations, so that the sum's variance is left·v + left²·v/n (prediction of a sum, normal
    approximation; its interval is ±1.96 standard deviations).
    """
    spans = [
        (later - earlier, after - before)
        for earlier, later, before, after in zip(times, times[1:], steps, steps[1:], strict=False)
        if after > before and later >= earlier
    ]
    if len(spans) < 2:
        return None
    taken = sum(count for _, count in spans)
    mean = sum(seconds for seconds, _ in spans) / taken
    # A span of k steps has k times the variance of one step.
    variance = sum((seconds - count * mean) ** 2 / count for seconds, count in spans) / (len(spans) - 1)
    left = max(0, total_steps - steps[-1])
    spread = 1.96 * sqrt(left * variance + left * left * variance / taken)
    return TimeLeft(expected=left * mean, low=max(0.0, left * mean - spread), high=left * mean + spread)
