"""A learning rate that falls when an evaluation metric stops falling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LRScheduler

from nexa.errors import UserError
from nexa_torch.schedules import lr_factor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from nexa_torch.schedules import ScheduleShape

_THRESHOLD = 1e-4


class PlateauSchedule(LRScheduler):
    """Warm-up, then a constant rate that is multiplied by `factor` whenever the metric stalls.

    An evaluation counts as better when it is below the best one by more than 1e-4 of it, as in
    torch's ReduceLROnPlateau; after more than `patience` evaluations in a row that are not, the rate
    falls, to no less than min_lr_ratio × peak. Rates and counters are in `state_dict`.
    """

    def __init__(self, optimizer: Optimizer, shape: ScheduleShape) -> None:
        self._shape = shape
        self.monitor = shape.monitor
        self.reduction = 1.0
        self.best: float | None = None
        self.stalled = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Rates of the groups for the next step."""
        rate = self.reduction * lr_factor("plateau", self.last_epoch, self._shape)
        return [base * rate for base in self.base_lrs]

    def observe(self, figures: Mapping[str, float]) -> None:
        """Take note of an evaluation, which changes the rates from the next step on.

        Raises UserError where the watched metric is not among its figures. An evaluation that was
        stopped early has no figures and does not count.
        """
        if not figures:
            return
        if self.monitor not in figures:
            raise UserError(
                f"schedule plateau watches {self.monitor!r}, which evaluations don't give",
                hint=f"set optimizer.scheduler.monitor to one of: {', '.join(figures)}",
            )
        value = figures[self.monitor]
        if self.best is None or value < self.best - _THRESHOLD * abs(self.best):
            self.best, self.stalled = value, 0
            return
        self.stalled += 1
        if self.stalled > self._shape.patience:
            self.stalled = 0
            self.reduction = max(self._shape.min_lr_ratio, self.reduction * self._shape.factor)
            self._last_lr = self.get_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, object]:
        """State as plain JSON values."""
        return {key: value for key, value in super().state_dict().items() if key != "_shape"}
