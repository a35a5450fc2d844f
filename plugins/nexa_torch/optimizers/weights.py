"""Optimizers that evaluate and save other weights than they train: the switch between the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer


@runtime_checkable
class HasEvaluationWeights(Protocol):
    """An optimizer with a `train` and an `eval` mode, such as the schedule-free ones."""

    def train(self) -> None:
        """Put the weights that training continues from into the model."""

    def eval(self) -> None:
        """Put the weights to evaluate and save into the model."""


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """While the block runs the model holds the weights to evaluate and save, then those to train on.

    Does nothing for optimizers that train the weights they offer.
    """
    if not isinstance(optimizer, HasEvaluationWeights):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def training_weights(optimizer: Optimizer) -> None:
    """Put the weights that training continues from into the model, after a checkpoint was loaded."""
    if isinstance(optimizer, HasEvaluationWeights):
        optimizer.train()
