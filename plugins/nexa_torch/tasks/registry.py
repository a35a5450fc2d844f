"""Which task a recipe's method names; this package's own are found without a look at other plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.data.module import BaseDataModule
    from nexa_torch.tasks.base import TrainingTask


def load_data_module(recipe: Recipe) -> BaseDataModule:
    """The data module of the recipe's method."""
    from nexa_torch.data.language import LanguageDataModule

    return LanguageDataModule(recipe)


def load_task(recipe: Recipe, data_module: BaseDataModule) -> TrainingTask:
    """The task of the recipe's method."""
    from nexa_torch.tasks.language_model import LanguageModelTask

    return LanguageModelTask(recipe, data_module)
