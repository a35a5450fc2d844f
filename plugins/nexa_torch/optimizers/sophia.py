"""Sophia-G (Liu et al. 2023, arXiv:2305.14342): momentum over a clipped estimate of the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import parameter_groups
from nexa_torch.optimizers.registry import setting


class Sophia(Optimizer):
    """Algorithm 3 of the paper, with the Gauss-Newton-Bartlett estimator of algorithm 2.

    m ← β1·m + (1 − β1)·g; every `interval` steps h ← β2·h + (1 − β2)·B·ĝ⊙ĝ, where ĝ is the gradient of
    the mean loss over B labels sampled from the model; θ ← θ·(1 − lr·decay) − lr·clip(m ÷ max(γ·h, ε), 1).
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float],
        gamma: float,
        eps: float,
        interval: int,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "interval": interval, "steps": 0})

    def curvature_due(self) -> bool:
        """Whether the next step starts with an estimate: the first, then every `interval`-th."""
        group = self.param_groups[0]
        return group["steps"] % group["interval"] == 0

    @torch.no_grad()
    def update_curvature(self, labels: int) -> None:
        """Fold the gradients of sampled labels, as the parameters hold them now, into the estimate."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            beta2 = group["betas"][1]
            gradients = [parameter.grad for parameter in parameters]
            hessians = [self._entries(parameter)["hessian"] for parameter in parameters]
            torch._foreach_mul_(hessians, beta2)
            torch._foreach_addcmul_(hessians, gradients, gradients, value=(1.0 - beta2) * labels)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["steps"] += 1
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            momenta = [self._entries(parameter)["exp_avg"] for parameter in parameters]
            hessians = [self._entries(parameter)["hessian"] for parameter in parameters]
            torch._foreach_lerp_(momenta, [parameter.grad for parameter in parameters], 1.0 - group["betas"][0])
            curvature = torch._foreach_mul(hessians, group["gamma"])
            torch._foreach_clamp_min_(curvature, group["eps"])
            updates = torch._foreach_div(momenta, curvature)
            torch._foreach_clamp_min_(updates, -1.0)
            torch._foreach_clamp_max_(updates, 1.0)
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
        return loss

    def _entries(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["hessian"] = torch.zeros_like(parameter)
        return state


def sophia(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Sophia-G over the trained parameters."""
    return Sophia(
        parameter_groups(model, section.weight_decay),
        lr=section.lr,
        betas=tuple(setting(section, "betas")),
        gamma=section.hessian_scale,
        eps=setting(section, "eps"),
        interval=section.hessian_interval,
    )
