"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682), by the authors' package."""

from __future__ import annotations

import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import Optimizer

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import parameter_groups
from nexa_torch.optimizers.registry import setting

_TRAINED = "trained"


class ScheduleFreeAdamW(AdamWScheduleFree):  # type: ignore[misc]  # the package has no type hints
    """Trains at interpolated points y and offers the average x for evaluation and saving.

    The package computes y from x again after each evaluation, which rounds; this one keeps y aside, so
    that evaluating or saving changes no later step by a bit, and a checkpoint holds both.
    """

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averaged weights into the model and keep the trained ones in the state."""
        for group in self.param_groups:
            if group["train_mode"]:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        self.state[parameter][_TRAINED] = parameter.detach().clone()
        super().eval()

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights that training continues from back into the model."""
        super().train()
        for group in self.param_groups:
            for parameter in group["params"]:
                trained = self.state[parameter].pop(_TRAINED, None) if parameter in self.state else None
                if trained is not None:
                    parameter.copy_(trained)


def schedule_free(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Schedule-free AdamW; warm-up comes from the recipe's schedule, through the groups' rates."""
    optimizer: Optimizer = ScheduleFreeAdamW(
        parameter_groups(model, section.weight_decay),
        lr=section.lr,
        betas=tuple(setting(section, "betas")),
        eps=setting(section, "eps"),
    )
    optimizer.train()  # type: ignore[attr-defined]
    return optimizer
