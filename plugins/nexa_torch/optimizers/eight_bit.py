"""AdamW with 8-bit moments (Dettmers et al. 2022, arXiv:2110.02861), by bitsandbytes."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers.groups import parameter_groups
from nexa_torch.optimizers.registry import setting


def adamw_8bit(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """AdamW whose moments are kept in blocks of 8-bit numbers; tensors below 4,096 values keep fp32 ones."""
    from bitsandbytes.optim import AdamW8bit

    groups = parameter_groups(model, section.weight_decay)
    optimizer: Optimizer = AdamW8bit(
        groups, lr=section.lr, betas=tuple(setting(section, "betas")), eps=setting(section, "eps")
    )
    return optimizer
