"""Optimizers by name: what each is called, what it uses of a recipe, what it keeps, how it is built. No torch."""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from nexa.recipe.sections.optimizer import OptimizerSection

Builder = Callable[["nn.Module", "OptimizerSection"], "Optimizer"]

_ADAM: Mapping[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8}


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """One optimizer.

    build: "module:attribute" of a `Builder`. defaults: fields of the recipe's optimizer section that it
    uses besides lr, weight_decay and scheduler, with the value that an unset (null) one takes.
    state_bytes: kept for each trained parameter (of large
    matrices where that differs). package: what must be importable besides torch; extra: of
    nexa-train, which installs it. curvature: asks for a second gradient, of sampled labels (see
    `nexa_torch.optimizers.curvature`). own_schedule: needs no falling rate, only warm-up.
    """

    summary: str
    build: str
    state_bytes: float
    defaults: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    extra: str | None = None
    curvature: bool = False
    own_schedule: bool = False
    elementwise: bool = True

    @property
    def available(self) -> bool:
        """Whether the package it needs is installed; nothing is imported."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind(
        summary="AdamW, one fused kernel",
        build="nexa_torch.optimizers.torch_builders:adamw",
        defaults=_ADAM,
        state_bytes=8,
    ),
    "adamw_8bit": OptimizerKind(
        summary="AdamW with its moments in 8 bits, quantised block by block",
        build="nexa_torch.optimizers.eight_bit:adamw_8bit",
        elementwise=False,
        defaults=_ADAM,
        # A byte for each moment and an fp32 scale for each block of 256.
        state_bytes=2 * (1 + 4 / 256),
        package="bitsandbytes",
        extra="quantize",
    ),
    "lion": OptimizerKind(
        summary="sign of the interpolated momentum; half of AdamW's state",
        build="nexa_torch.optimizers.lion:lion",
        defaults={"betas": (0.9, 0.99)},
        state_bytes=4,
    ),
    "sophia": OptimizerKind(
        summary="Sophia-G: momentum over an estimate of the Hessian's diagonal, clipped",
        build="nexa_torch.optimizers.sophia:sophia",
        defaults={"betas": (0.965, 0.99), "eps": 1e-12, "hessian_interval": 10, "hessian_scale": 0.05},
        state_bytes=8,
        curvature=True,
    ),
    "muon": OptimizerKind(
        summary="orthogonalised momentum for hidden matrices, AdamW for the rest",
        build="nexa_torch.optimizers.muon:muon",
        elementwise=False,
        defaults={**_ADAM, "momentum": 0.95},
        state_bytes=4,
    ),
    "adafactor": OptimizerKind(
        summary="second moments by row and column; almost no state",
        build="nexa_torch.optimizers.torch_builders:adafactor",
        elementwise=False,
        defaults={"eps": 1e-3},
        state_bytes=0.01,
    ),
    "schedule_free": OptimizerKind(
        summary="schedule-free AdamW: averages weights instead of lowering the rate",
        build="nexa_torch.optimizers.schedule_free:schedule_free",
        defaults=_ADAM,
        state_bytes=8,
        package="schedulefree",
        extra="optimizers",
        own_schedule=True,
    ),
    "sgd": OptimizerKind(
        summary="gradient descent, with momentum where asked for",
        build="nexa_torch.optimizers.torch_builders:sgd",
        defaults={"momentum": 0.0},
        state_bytes=0,
    ),
}


def unknown_optimizer(name: str) -> UserError:
    """The error for an optimizer that does not exist; lists those that do."""
    close = difflib.get_close_matches(name, OPTIMIZERS, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return UserError(f"unknown optimizer {name!r}", hint=f"{suggestion}known: {', '.join(OPTIMIZERS)}")


def missing_package(name: str) -> UserError | None:
    """The error for a known optimizer whose package is not installed; None where it can be built."""
    kind = OPTIMIZERS[name]
    if kind.available:
        return None
    here = ", ".join(other for other, kind in OPTIMIZERS.items() if kind.available)
    return UserError(
        f"optimizer {name!r} needs the package {kind.package}",
        hint=f"type: pip install 'nexa-train[{kind.extra}]'; available without it: {here}",
    )


def setting(section: OptimizerSection, name: str) -> Any:
    """A field of the section, or where it is unset the chosen optimizer's own default."""
    value = getattr(section, name)
    return OPTIMIZERS[section.name].defaults[name] if value is None else value


def state_bytes(section: OptimizerSection) -> float:
    """fp32-equivalent bytes of state for each trained parameter; an unknown optimizer counts as AdamW."""
    kind = OPTIMIZERS.get(section.name, OPTIMIZERS["adamw"])
    # Plain gradient descent keeps nothing; with momentum, one running gradient.
    return kind.state_bytes if section.name != "sgd" or not section.momentum else 4


def build_optimizer(section: OptimizerSection, model: nn.Module) -> Optimizer:
    """Return the recipe's optimizer over the trained parameters of `model`.

    Raises UserError for an unknown name, listing the known ones, and where a package is missing,
    saying what to type.
    """
    if section.name not in OPTIMIZERS:
        raise unknown_optimizer(section.name)
    if (error := missing_package(section.name)) is not None:
        raise error
    build: Any = pkgutil.resolve_name(OPTIMIZERS[section.name].build)
    optimizer: Optimizer = build(model, section)
    return optimizer
