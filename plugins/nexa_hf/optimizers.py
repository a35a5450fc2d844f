"""The recipe's optimizers and schedules in transformers' words; nothing is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nexa.recipe.schema import Recipe

_BETAS = (0.9, 0.95)
_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class OptimizerChoice:
    """An optimizer as transformers calls it.

    optim: value of its argument. fields: fields of the recipe's optimizer section that it uses besides lr,
    weight_decay and scheduler. betas: its default. package: what must be importable; gpu: whether it needs one.
    """

    optim: str
    fields: tuple[str, ...] = ()
    betas: tuple[float, float] = _BETAS
    package: str | None = None
    gpu: bool = False


OPTIMIZERS: Mapping[str, OptimizerChoice] = {
    "adamw": OptimizerChoice(optim="adamw_torch_fused", fields=("betas", "eps")),
    "adamw_8bit": OptimizerChoice(optim="adamw_8bit", fields=("betas", "eps"), package="bitsandbytes", gpu=True),
    "lion": OptimizerChoice(optim="lion_32bit", fields=("betas",), betas=(0.9, 0.99), package="bitsandbytes", gpu=True),
    "adafactor": OptimizerChoice(optim="adafactor"),
    "sgd": OptimizerChoice(optim="sgd", fields=("momentum",)),
}
"""By the recipe's name. Others of transformers are reached through hf.arguments."""


@dataclass(frozen=True, kw_only=True)
class ScheduleChoice:
    """A schedule in transformers' words.

    arguments: from the recipe. fields: fields of the recipe's schedule section that it uses. watches: the
    rate depends on evaluations. warms_up: whether warmup_steps is heeded.
    """

    arguments: Callable[[Recipe], Mapping[str, Any]]
    fields: tuple[str, ...] = ()
    watches: bool = False
    warms_up: bool = True


def _cosine(recipe: Recipe) -> Mapping[str, Any]:
    ratio = recipe.optimizer.scheduler.min_lr_ratio
    if not ratio:
        return {"lr_scheduler_type": "cosine"}
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs.min_lr_rate": ratio}


def _linear(recipe: Recipe) -> Mapping[str, Any]:
    optimizer = recipe.optimizer
    if not optimizer.scheduler.min_lr_ratio:
        return {"lr_scheduler_type": "linear"}
    return {
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs.power": 1.0,
        "lr_scheduler_kwargs.lr_end": optimizer.scheduler.min_lr_ratio * optimizer.lr,
    }


def _wsd(recipe: Recipe) -> Mapping[str, Any]:
    schedule, steps = recipe.optimizer.scheduler, recipe.training.max_steps
    return {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs.num_decay_steps": schedule.decay_steps or max(1, (steps or 0) // 10),
        "lr_scheduler_kwargs.decay_type": schedule.decay_shape,
        "lr_scheduler_kwargs.min_lr_ratio": schedule.min_lr_ratio,
    }


def _figure(name: str) -> str:
    """A figure of evaluations as the trainers call it: val_loss is eval_loss."""
    return f"eval_{name.removeprefix('val_').removeprefix('eval_')}"


def _plateau(recipe: Recipe) -> Mapping[str, Any]:
    optimizer = recipe.optimizer
    return {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs.factor": optimizer.scheduler.factor,
        "lr_scheduler_kwargs.patience": optimizer.scheduler.patience,
        "lr_scheduler_kwargs.min_lr": optimizer.scheduler.min_lr_ratio * optimizer.lr,
        "metric_for_best_model": _figure(optimizer.scheduler.monitor),
    }


SCHEDULES: Mapping[str, ScheduleChoice] = {
    "cosine_warmup": ScheduleChoice(arguments=_cosine, fields=("min_lr_ratio",)),
    "cosine_with_restarts": ScheduleChoice(
        arguments=lambda recipe: {
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs.num_cycles": recipe.optimizer.scheduler.cycles,
        },
        fields=("cycles",),
    ),
    "linear": ScheduleChoice(arguments=_linear, fields=("min_lr_ratio",)),
    "constant": ScheduleChoice(
        arguments=lambda recipe: {
            "lr_scheduler_type": "constant_with_warmup" if recipe.optimizer.scheduler.warmup_steps else "constant"
        }
    ),
    "wsd": ScheduleChoice(arguments=_wsd, fields=("min_lr_ratio", "decay_steps", "decay_shape")),
    "inverse_sqrt": ScheduleChoice(
        arguments=lambda recipe: {
            "lr_scheduler_type": "inverse_sqrt",
            "lr_scheduler_kwargs.timescale": max(1, recipe.optimizer.scheduler.warmup_steps),
        }
    ),
    "plateau": ScheduleChoice(
        arguments=_plateau, fields=("min_lr_ratio", "monitor", "patience", "factor"), watches=True, warms_up=False
    ),
}
"""By the recipe's name."""

SCHEDULE_FIELDS = tuple(dict.fromkeys(field for choice in SCHEDULES.values() for field in choice.fields))
OPTIMIZER_FIELDS = ("betas", "eps", "momentum", "hessian_interval", "hessian_scale")


def schedule_arguments(recipe: Recipe) -> Mapping[str, Any]:
    """Arguments of the recipe's schedule; none for a name that is not known."""
    choice = SCHEDULES.get(recipe.optimizer.scheduler.name)
    return choice.arguments(recipe) if choice else {}


def optimizer_arguments(recipe: Recipe) -> Mapping[str, Any]:
    """The argument that names the recipe's optimizer; none for a name that is not known."""
    choice = OPTIMIZERS.get(recipe.optimizer.name)
    return {"optim": choice.optim} if choice else {}


def beta_arguments(recipe: Recipe) -> Mapping[str, Any]:
    """Decay rates of the moments, where the optimizer has any."""
    choice = OPTIMIZERS.get(recipe.optimizer.name)
    if choice is None or "betas" not in choice.fields:
        return {}
    first, second = recipe.optimizer.betas or choice.betas
    return {"adam_beta1": first, "adam_beta2": second}


def eps_arguments(recipe: Recipe) -> Mapping[str, Any]:
    """Offset of the denominator, where the optimizer has one."""
    choice = OPTIMIZERS.get(recipe.optimizer.name)
    if choice is None or "eps" not in choice.fields:
        return {}
    return {"adam_epsilon": recipe.optimizer.eps if recipe.optimizer.eps is not None else _EPS}


def momentum_arguments(recipe: Recipe) -> Mapping[str, Any]:
    """Momentum of plain gradient descent."""
    momentum = recipe.optimizer.momentum
    return {"optim_args": f"momentum={momentum}"} if momentum and recipe.optimizer.name == "sgd" else {}
