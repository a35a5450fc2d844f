"""Learning-rate schedules: pure factors of the step, and `build_scheduler` that hands them to torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa.recipe.sections.optimizer import LearningRateSchedule


@dataclass(frozen=True, kw_only=True)
class ScheduleShape:
    """The numbers a schedule is drawn from.

    total_steps, warmup_steps, decay_steps: optimizer steps; decay_steps None is a tenth of the run.
    min_lr_ratio: factor at the end. decay_shape: of wsd, "linear", "cosine" or "1-sqrt". cycles: falls
    of cosine_with_restarts. patience, factor: of plateau, see `PlateauSchedule`.
    """

    total_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0
    decay_steps: int | None = None
    decay_shape: str = "linear"
    cycles: int = 2
    monitor: str = "eval_loss"
    patience: int = 2
    factor: float = 0.5


def _progress(shape: ScheduleShape, step: int) -> float:
    """Share of the steps after warm-up that are done, from 0 to 1."""
    return min(1.0, (step - shape.warmup_steps) / max(1, shape.total_steps - shape.warmup_steps))


def _floor(shape: ScheduleShape, factor: float) -> float:
    return shape.min_lr_ratio + (1.0 - shape.min_lr_ratio) * factor


def _constant(shape: ScheduleShape, step: int) -> float:
    return 1.0


def _linear(shape: ScheduleShape, step: int) -> float:
    return _floor(shape, 1.0 - _progress(shape, step))


def _cosine(shape: ScheduleShape, step: int) -> float:
    return _floor(shape, 0.5 * (1.0 + math.cos(math.pi * _progress(shape, step))))


def _cosine_with_restarts(shape: ScheduleShape, step: int) -> float:
    progress = _progress(shape, step)
    cycle = 1.0 if progress >= 1.0 else (progress * shape.cycles) % 1.0
    return _floor(shape, 0.5 * (1.0 + math.cos(math.pi * cycle)))


_DECAYS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    # Hägele et al. 2024 (arXiv:2405.18392) find it the best of the three.
    "1-sqrt": lambda done: 1.0 - math.sqrt(done),
}


def _wsd(shape: ScheduleShape, step: int) -> float:
    decay = shape.decay_steps if shape.decay_steps is not None else max(1, shape.total_steps // 10)
    done = min(1.0, max(0.0, 1.0 - (shape.total_steps - step) / decay))
    return _floor(shape, _DECAYS[shape.decay_shape](done))


def _inverse_sqrt(shape: ScheduleShape, step: int) -> float:
    timescale = max(1, shape.warmup_steps)
    return max(shape.min_lr_ratio, math.sqrt(timescale / max(timescale, step)))


@dataclass(frozen=True, kw_only=True)
class ScheduleKind:
    """One schedule: its factor after warm-up, and the fields of the recipe's section it uses.

    watches: whether the rate also depends on evaluations (`PlateauSchedule`).
    """

    factor: Callable[[ScheduleShape, int], float]
    fields: tuple[str, ...] = ("min_lr_ratio",)
    watches: bool = False


SCHEDULES: Mapping[str, ScheduleKind] = {
    "cosine_warmup": ScheduleKind(factor=_cosine),
    "cosine_with_restarts": ScheduleKind(factor=_cosine_with_restarts, fields=("min_lr_ratio", "cycles")),
    "linear": ScheduleKind(factor=_linear),
    "constant": ScheduleKind(factor=_constant, fields=()),
    "wsd": ScheduleKind(factor=_wsd, fields=("min_lr_ratio", "decay_steps", "decay_shape")),
    "inverse_sqrt": ScheduleKind(factor=_inverse_sqrt),
    "plateau": ScheduleKind(factor=_constant, fields=("min_lr_ratio", "monitor", "patience", "factor"), watches=True),
}
SCHEDULE_FIELDS = tuple(dict.fromkeys(field for kind in SCHEDULES.values() for field in kind.fields))
"""Fields of the recipe's schedule section that only some schedules use."""


def unknown_schedule(name: str) -> UserError:
    """The error for a schedule that does not exist; lists those that do."""
    close = difflib.get_close_matches(name, SCHEDULES, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return UserError(f"unknown learning-rate schedule {name!r}", hint=f"{suggestion}known: {', '.join(SCHEDULES)}")


def lr_factor(name: str, step: int, shape: ScheduleShape) -> float:
    """Factor on the peak rate for the update that follows `step` finished ones.

    The rate rises linearly over the first `warmup_steps` updates and reaches its peak with the last of
    them; the first update has rate peak ÷ warmup_steps. Raises UserError for an unknown name.
    """
    if name not in SCHEDULES:
        raise unknown_schedule(name)
    if step < shape.warmup_steps:
        return (step + 1) / shape.warmup_steps
    return SCHEDULES[name].factor(shape, step)


def build_scheduler(name: str, optimizer: Optimizer, **kwargs: Any) -> LRScheduler:
    """Return a torch scheduler that is stepped once after every optimizer step.

    kwargs: the fields of `ScheduleShape`; total_steps is required. A plateau schedule also wants the
    figures of each evaluation, through `observe_evaluation`. Raises UserError for an unknown name,
    listing the known ones, and TypeError for an unknown keyword.
    """
    from torch.optim.lr_scheduler import LambdaLR

    if name not in SCHEDULES:
        raise unknown_schedule(name)
    shape = ScheduleShape(**kwargs)
    if SCHEDULES[name].watches:
        from nexa_torch.plateau import PlateauSchedule

        return PlateauSchedule(optimizer, shape)
    return LambdaLR(optimizer, lambda step: lr_factor(name, step, shape))


def observe_evaluation(scheduler: LRScheduler | None, figures: Mapping[str, float]) -> None:
    """Tell a schedule that watches evaluations what the latest found; others don't look."""
    observe = getattr(scheduler, "observe", None)
    if observe is not None:
        observe(figures)


def recipe_scheduler(section: LearningRateSchedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The schedule of a recipe over a run of `total_steps`; see `build_scheduler`."""
    fields = {name: getattr(section, name) for name in SCHEDULE_FIELDS}
    return build_scheduler(
        section.name, optimizer, total_steps=total_steps, warmup_steps=section.warmup_steps, **fields
    )
