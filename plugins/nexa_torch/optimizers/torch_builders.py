"""The optimizers that torch itself has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import parameter_groups
from nexa_torch.optimizers.registry import setting


def adamw(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) in torch's fused kernel."""
    groups = parameter_groups(model, section.weight_decay)
    return AdamW(groups, lr=section.lr, betas=tuple(setting(section, "betas")), eps=setting(section, "eps"), fused=True)


def adafactor(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) at torch's defaults.

    A step's size is lr × the RMS of the matrix it changes, at least `eps`; so lr is the relative
    step of the paper (about 1e-2), not AdamW's.
    """
    groups = parameter_groups(model, section.weight_decay)
    return Adafactor(groups, lr=section.lr, eps=(None, setting(section, "eps")))


class DecoupledSGD(SGD):
    """Gradient descent with momentum whose weight decay shrinks weights by lr × decay, past the momentum.

    SGDW of Loshchilov & Hutter 2019; without momentum the same as SGD with an L2 penalty.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Decay, then step along the momentum."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if decay and trained:
                torch._foreach_mul_(trained, 1.0 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def sgd(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Gradient descent, with momentum where the recipe asks for it."""
    groups = parameter_groups(model, section.weight_decay)
    return DecoupledSGD(groups, lr=section.lr, momentum=setting(section, "momentum"), foreach=True)
