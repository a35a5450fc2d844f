"""The extra pass over a batch, with labels drawn from the model, that some optimizers ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nexa_torch.batches import to_device
from nexa_torch.engine.seeds import dropout_seed

if TYPE_CHECKING:
    from nexa_torch.engine.engine import TrainingEngine
    from nexa_torch.engine.windows import Window
    from nexa_torch.optimizers.curvature import NeedsCurvature


def estimate_curvature(
    engine: TrainingEngine, optimizer: NeedsCurvature, window: Window, step: int, weight: int
) -> None:
    """Give the optimizer the gradient of the step's batch under labels that the model itself draws.

    weight: labels of the batch over all ranks. Leaves no gradients behind. An estimate whose fp16
    gradients overflow is left out; the next one comes in its turn.
    """
    for part, last in engine.strategy.passes(window.microbatches, engine.source.idle_batch):
        torch.manual_seed(dropout_seed(engine.recipe.training.seed, step, part.number))
        batch = to_device(part.batch, engine.ranks.device)
        with engine.precision.autocast():
            mean = engine.task.sampled_step(batch, engine.model, engine.criterion)
        with engine.strategy.last_backward(last):
            engine.precision.backward(mean * (part.weight / max(1, weight)))
    engine.strategy.sum_gradients()
    engine.precision.unscale(engine.parameters)
    if engine.precision.scale is None or engine.precision.finite(engine.parameters):
        optimizer.update_curvature(weight)
    engine.optimizer.zero_grad(set_to_none=True)
