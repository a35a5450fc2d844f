"""The callbacks that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_torch.callbacks.samples import SampleCallback
from nexa_torch.tasks.language_model import LanguageModelTask

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.callbacks.base import Callback
    from nexa_torch.tasks.base import TrainingTask


def recipe_callbacks(recipe: Recipe, task: TrainingTask) -> list[Callback]:
    """One callback for each part of the recipe that asks for one."""
    callbacks: list[Callback] = []
    if recipe.samples.prompts and isinstance(task, LanguageModelTask):
        callbacks.append(SampleCallback(task))
    return callbacks
