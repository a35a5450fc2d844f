"""What a run trains by: the arguments of transformers and TRL, and the recipe's fields that are heeded beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexa.backend import Answer
from nexa.settings_report import CORE_FIELDS, settings_report
from nexa_hf.arguments import training_arguments, translations
from nexa_hf.methods import find_method
from nexa_hf.options import SECTION, hf_options
from nexa_hf.settings import answer_settings

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def effective(recipe: Recipe) -> dict[str, Any]:
    """`arguments` as the worker makes them, and value by dotted key of every field that is in none of them.

    A field that the table of arguments has is there only as what it became, unless the method heeds it besides.
    Raises UserError for a method that this backend has not.
    """
    method = find_method(recipe.method)
    passed = {*translations(method), *CORE_FIELDS} - {*method.honoured}
    own = {
        line.path: line.value
        for line in settings_report(recipe, answer_settings(recipe))
        if line.answer is not Answer.REFUSED and line.path not in passed and not recipe.lacks(line.path)
    }
    return {"arguments": training_arguments(recipe, method), SECTION: hf_options(recipe).model_dump(mode="json"), **own}
