"""A task of the torch backend from outside: tell from a byte's bits whether they are even or odd in number."""

from __future__ import annotations

import torch
from nexa_torch import BaseDataModule, TrainingTask, build_optimizer, row_loader
from torch import nn
from torch.utils.data import TensorDataset

from nexa_echo.parity_options import BITS, ParityOptions


class ParityData(BaseDataModule):
    """All 256 bytes as rows of bits; those not trained on are held out."""

    prefetch = True

    def prepare_data(self):
        """Nothing is kept on disk."""

    def setup(self, stage=None):
        """Make the rows, in an order of their own so that both parts are mixed."""
        numbers = torch.arange(2**BITS).mul(167).remainder(2**BITS)
        bits = numbers.unsqueeze(1).bitwise_right_shift(torch.arange(BITS)).bitwise_and(1)
        rows = TensorDataset(bits.float() * 2 - 1, bits.sum(1).remainder(2))
        held_out = round((self.recipe.data.validation.fraction or 0.0) * len(rows))
        self.train = torch.utils.data.Subset(rows, range(held_out, len(rows)))
        self.held_out = torch.utils.data.Subset(rows, range(held_out)) if held_out else None

    def train_dataloader(self, rank, world_size):
        """Loader of this rank's microbatches."""
        return row_loader(self.recipe, self.train, rank, world_size, train=True)

    def val_dataloader(self, rank, world_size):
        """Loader of the held-out bytes."""
        if self.held_out is None:
            return None
        return row_loader(self.recipe, self.held_out, rank, world_size, train=False)


class ParityTask(TrainingTask):
    """A network with one hidden layer and two classes."""

    def build_model(self):
        """Weights follow from the seed."""
        width = ParityOptions.model_validate(self.options).width
        torch.manual_seed(self.recipe.training.seed)
        return nn.Sequential(nn.Linear(BITS, width), nn.ReLU(), nn.Linear(width, 2))

    def build_optimizer(self, model):
        """The recipe's."""
        return build_optimizer(self.recipe.optimizer, model)

    def build_scheduler(self, optimizer):
        """A constant rate, which the spec says."""
        return None

    def build_criterion(self):
        """Mean cross-entropy over rows."""
        return nn.CrossEntropyLoss()

    def train_step(self, batch, model, criterion):
        """Loss and accuracy; the accuracy stays on the device."""
        bits, odd = batch
        logits = model(bits)
        return criterion(logits, odd), {"accuracy": (logits.argmax(-1) == odd).float().mean()}

    def validation_step(self, batch, model, criterion):
        """The same."""
        return self.train_step(batch, model, criterion)
