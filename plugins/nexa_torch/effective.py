"""What the engine trains by: the recipe's fields that count in this recipe, with every default filled in.

The engine reads the recipe itself, so these go by the recipe's own names. A field that is refused, or
that this recipe leaves idle, is not among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexa.backend import Answer
from nexa.batch import resolve_batch
from nexa.errors import RecipeError, UserError
from nexa.plan import resources_of
from nexa.settings_report import CORE_FIELDS, settings_report
from nexa_torch.optimizers.registry import OPTIMIZERS, setting
from nexa_torch.options import SECTION, torch_options
from nexa_torch.settings import answer_settings

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def effective(recipe: Recipe) -> dict[str, Any]:
    """Value by dotted recipe key, and the options of the engine and of the task.

    Raises UserError for a batch that does not work out.
    """
    lines = settings_report(recipe, answer_settings(recipe))
    values = {
        line.path: line.value
        for line in lines
        if line.answer is not Answer.REFUSED and line.path not in CORE_FIELDS and not recipe.lacks(line.path)
    }
    values |= _batch(recipe)
    if recipe.optimizer.name in OPTIMIZERS:
        values |= {
            f"optimizer.{name}": setting(recipe.optimizer, name) for name in OPTIMIZERS[recipe.optimizer.name].defaults
        }
    options = {SECTION: torch_options(recipe).model_dump(mode="json")}
    if recipe.method in recipe.plugin_options:
        options[recipe.method] = recipe.plugin_options[recipe.method]
    return values | {f"{name}.{key}": value for name, section in options.items() for key, value in section.items()}


def _batch(recipe: Recipe) -> dict[str, int]:
    """The rows of a step as the engine divides them."""
    try:
        batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    except RecipeError as error:
        raise UserError(str(error)) from error
    return {
        "training.global_batch_size": batch.global_batch_size,
        "training.microbatch_size_per_gpu": batch.microbatch_size,
        "training.grad_accumulation_steps": batch.accumulation_steps,
    }
