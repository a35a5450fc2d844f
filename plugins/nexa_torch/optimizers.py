"""Optimizers by name, with decay on matrices only. Torch is imported when one is built."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from nexa.recipe.schema import OptimizerSection


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> Optimizer:
    from torch.optim import AdamW

    beta1, beta2 = section.betas
    return AdamW(groups, lr=section.lr, betas=(beta1, beta2), eps=section.eps, fused=True)


def _sgd(groups: list[dict[str, Any]], section: OptimizerSection) -> Optimizer:
    from torch.optim import SGD

    return SGD(groups, lr=section.lr, fused=True)


OPTIMIZERS: Mapping[str, Callable[[list[dict[str, Any]], OptimizerSection], Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
}

STATE_BYTES_PER_PARAMETER: Mapping[str, int] = {"adamw": 8, "sgd": 0}
"""fp32 state an optimizer keeps for each trained parameter."""


def unknown_optimizer(name: str) -> UserError:
    """The error for an optimizer that does not exist; lists those that do."""
    close = difflib.get_close_matches(name, OPTIMIZERS, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return UserError(f"unknown optimizer {name!r}", hint=f"{suggestion}known: {', '.join(OPTIMIZERS)}")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters into those with decay and those without.

    Vectors (norms, biases) and embeddings get none; neither does an output head that shares the
    embedding's weight.
    """
    from torch import nn

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(section: OptimizerSection, model: nn.Module) -> Optimizer:
    """Return the recipe's optimizer over the trained parameters of `model`.

    Raises UserError for an unknown name, listing the known ones.
    """
    if section.name not in OPTIMIZERS:
        raise unknown_optimizer(section.name)
    return OPTIMIZERS[section.name](parameter_groups(model, section.weight_decay), section)
