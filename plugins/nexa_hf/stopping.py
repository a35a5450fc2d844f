"""When training ends early: the recipe's early stopping, on the figures of evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa.worker.retention import metric_value, smaller_is_better

if TYPE_CHECKING:
    from nexa.recipe.sections.training import EarlyStoppingSection


class Patience:
    """Counts evaluations without an improvement; see `nexa.recipe.sections.training.EarlyStoppingSection`.

    An evaluation before the first step does not count, and NaN is never an improvement.
    """

    def __init__(self, section: EarlyStoppingSection) -> None:
        self._section = section
        self._sign = 1.0 if smaller_is_better(section.monitor, section.mode) else -1.0
        self._best: float | None = None
        self._best_step = 0
        self._waited = 0

    def observe(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Take note of an evaluation; returns why training should end, None while it should go on."""
        value = metric_value(metrics, self._section.monitor)
        if value is None or step == 0:
            return None
        better = self._best is None or self._sign * (self._best - value) > self._section.min_delta
        if better and not math.isnan(value):
            self._best, self._best_step, self._waited = value, step, 0
            return None
        self._waited += 1
        patience = self._section.patience
        if self._waited < patience:
            return None
        best = "none" if self._best is None else f"{self._best:.6g}"
        return (
            f"{self._section.monitor} did not improve in {patience} evaluation{'s' * (patience > 1)}; "
            f"the best was {best} at step {self._best_step}"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue to count."""
        self._best, self._best_step, self._waited = state["best"], state["best_step"], state["waited"]
