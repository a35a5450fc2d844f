"""A small task to read, to copy and to try the engine with: a multilayer perceptron fits numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nexa_torch.optimizers import build_optimizer
from nexa_torch.schedules import recipe_scheduler
from nexa_torch.tasks.base import StepResult, TrainingTask
from nexa_torch.tasks.regression_options import regression_options

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

RegressionBatch = tuple[Tensor, Tensor]
"""Inputs [rows, n_features] and targets [rows, n_targets], fp32."""


class RegressionTask(TrainingTask):
    """Mean squared error of a multilayer perceptron; sizes are in the recipe's `regression` section."""

    def build_model(self) -> nn.Module:
        """Linear layers with GELU between them."""
        options = regression_options(self.recipe)
        torch.manual_seed(self.recipe.training.seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([options.n_features, *options.hidden_sizes]):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
            if options.dropout:
                layers.append(nn.Dropout(options.dropout))
        last = options.hidden_sizes[-1] if options.hidden_sizes else options.n_features
        return nn.Sequential(*layers, nn.Linear(last, options.n_targets))

    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """The recipe's optimizer."""
        return build_optimizer(self.recipe.optimizer, model)

    def build_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The recipe's schedule over the whole run."""
        return recipe_scheduler(self.recipe.optimizer.scheduler, optimizer, self.total_steps)

    def build_criterion(self) -> nn.Module:
        """Mean squared error."""
        return nn.MSELoss()

    def train_step(self, batch: RegressionBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Loss over the rows of a microbatch."""
        inputs, targets = batch
        return criterion(model(inputs), targets), {}

    def validation_step(self, batch: RegressionBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Loss and mean absolute error."""
        inputs, targets = batch
        outputs = model(inputs)
        return criterion(outputs, targets), {"mae": (outputs - targets).abs().mean()}
