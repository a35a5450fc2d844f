"""Muon for hidden matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim import Muon as TorchMuon

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import hidden_matrices, parameter_groups
from nexa_torch.optimizers.registry import setting


class Muon(Optimizer):
    """torch's Muon (Jordan et al. 2024) and AdamW under one set of parameter groups and one state.

    The orthogonalised update is scaled by 0.2·√max(rows, columns) (Liu et al. 2025, arXiv:2502.16982),
    which gives it the RMS of AdamW's, so that one learning rate and decay serve both.
    """

    def __init__(
        self,
        matrices: list[dict[str, Any]],
        others: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(TorchMuon(matrices, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr=lr, betas=betas, eps=eps, fused=True))
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Give both parts this object's groups and state, so that schedules and checkpoints see one optimizer."""
        self.state = defaultdict(dict, self.state)
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of both parts."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update hidden matrices by Muon and the rest by AdamW."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def muon(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Muon over the hidden matrices of `model`, AdamW over embeddings, output head and vectors."""
    hidden = hidden_matrices(model)
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in parameter_groups(model, section.weight_decay):
        for target, wanted in ((matrices, True), (others, False)):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in hidden) is wanted]
            if chosen:
                target.append({**group, "params": chosen})
    return Muon(
        matrices,
        others,
        lr=section.lr,
        momentum=setting(section, "momentum"),
        betas=tuple(setting(section, "betas")),
        eps=setting(section, "eps"),
    )
