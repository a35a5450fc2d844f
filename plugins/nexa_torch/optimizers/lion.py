"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import parameter_groups
from nexa_torch.optimizers.registry import setting


class Lion(Optimizer):
    """c = β1·m + (1 − β1)·g; θ ← θ − lr·(sign(c) + decay·θ); m ← β2·m + (1 − β2)·g."""

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self._momentum(parameter) for parameter in parameters]
            directions = torch._foreach_lerp(momenta, gradients, 1.0 - beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1.0 - beta2)
        return loss

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["exp_avg"]
        return momentum


def lion(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Lion over the trained parameters."""
    groups = parameter_groups(model, section.weight_decay)
    return Lion(groups, lr=section.lr, betas=tuple(setting(section, "betas")))
