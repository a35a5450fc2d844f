"""What a run needs, by formula: the engine-independent part is that of Nexa's own engine. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nexa.errors import UserError
from nexa_hf.methods import find_method
from nexa_torch import estimate as torch_estimate

if TYPE_CHECKING:
    from nexa.backend import Estimate, Resources
    from nexa.recipe.schema import Recipe


def estimate(recipe: Recipe, resources: Resources) -> Estimate:
    """Parameters, memory and checkpoint size; notes say where the own engine does the same faster."""
    found = torch_estimate.estimate(recipe, resources)
    try:
        slow = find_method(recipe.method).slow
    except UserError:
        slow = ""
    notes = [*found.notes, *([slow] if slow else [])]
    return replace(found, notes=notes)
