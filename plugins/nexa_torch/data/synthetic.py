"""Made-up rows with a known answer: inputs, and a noisy linear function of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nexa_torch.data.module import BaseDataModule, GlobalSampler, row_loader
from nexa_torch.data.order import held_out
from nexa_torch.tasks.regression_options import regression_options


class SyntheticDataModule(BaseDataModule):
    """Rows made from `training.seed` and the recipe's `regression` section; the same on every process."""

    prefetch: ClassVar[bool] = True

    def prepare_data(self) -> None:
        """Nothing is kept on disk."""

    def setup(self, stage: str | None = None) -> None:
        """Make the rows and hold out the share that `data.validation.fraction` says."""
        options, seed = regression_options(self.recipe), self.recipe.training.seed
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(options.n_samples, options.n_features, generator=generator)
        # Weights of this size give targets of unit variance.
        weights = torch.randn(options.n_features, options.n_targets, generator=generator)
        weights /= weights.norm(dim=0, keepdim=True)
        noise = torch.randn(options.n_samples, options.n_targets, generator=generator)
        targets = inputs @ weights + options.noise * noise
        fraction = self.recipe.data.validation.fraction
        count = min(max(1, round(fraction * options.n_samples)), options.n_samples - 1) if fraction else 0
        chosen = torch.zeros(options.n_samples, dtype=torch.bool)
        chosen[torch.from_numpy(held_out(seed, options.n_samples, count))] = True
        self._train = TensorDataset(inputs[~chosen], targets[~chosen])
        self._validation = TensorDataset(inputs[chosen], targets[chosen]) if count else None

    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[tuple[Tensor, ...]], GlobalSampler]:
        """Loader of this rank's microbatches."""
        return row_loader(self.recipe, self._train, rank, world_size, train=True)

    def val_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[tuple[Tensor, ...]], GlobalSampler] | None:
        """Loader of held-out rows in order; None where the recipe holds nothing out."""
        if self._validation is None:
            return None
        return row_loader(self.recipe, self._validation, rank, world_size, train=False)

    def fingerprint(self) -> str:
        """SHA-256 of what the rows are made from."""
        made_from = {
            "options": regression_options(self.recipe).model_dump(mode="json"),
            "seed": self.recipe.training.seed,
            "fraction": self.recipe.data.validation.fraction,
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def notes(self) -> Sequence[str]:
        """The counts of rows."""
        held_out_rows = len(self._validation) if self._validation is not None else 0
        return (f"{len(self._train):,} made-up rows to train on, {held_out_rows:,} held out",)
