"""The callbacks that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_torch.callbacks.early_stopping import EarlyStopping
from nexa_torch.callbacks.profiling import ProfilerCallback, ThroughputCallback
from nexa_torch.callbacks.samples import SampleCallback
from nexa_torch.tasks.language_model import LanguageModelTask

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.callbacks.base import Callback
    from nexa_torch.tasks.base import TrainingTask


def recipe_callbacks(recipe: Recipe, task: TrainingTask) -> list[Callback]:
    """One callback for each part of the recipe that asks for one."""
    training = recipe.training
    callbacks: list[Callback] = []
    if (stopping := training.early_stopping) is not None:
        callbacks.append(
            EarlyStopping(
                monitor=stopping.monitor,
                patience=stopping.patience,
                mode=stopping.mode,
                min_delta=stopping.min_delta,
                restore_best=stopping.restore_best,
            )
        )
    if training.measure_mfu:
        callbacks.append(ThroughputCallback())
    if training.profile_steps is not None:
        callbacks.append(ProfilerCallback(training.profile_steps))
    if recipe.samples.prompts and isinstance(task, LanguageModelTask):
        callbacks.append(SampleCallback(task))
    return callbacks
