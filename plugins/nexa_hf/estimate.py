"""What a run needs, by formula: the engine-independent part is that of Nexa's own engine. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nexa.errors import UserError
from nexa_hf.methods import find_method
from nexa_hf.methods.reference import holds_reference
from nexa_torch import estimate as torch_estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexa.backend import Estimate, Resources
    from nexa.recipe.schema import Recipe

_PAIRS = ("dpo", "orpo", "reward")
_OF_ROWS = ("activations", "logits")
_BYTES = 4


def estimate(recipe: Recipe, resources: Resources) -> Estimate:
    """Parameters, memory and checkpoint size; notes say where the own engine does the same faster."""
    found = torch_estimate.estimate(recipe, resources)
    try:
        slow = find_method(recipe.method).slow
    except UserError:
        slow = ""
    notes = [*found.notes, *([slow] if slow else [])]
    memory = _memory(recipe, found)
    if "reference" in memory:
        notes.append("the reference model is as large as the trained one")
    return replace(found, notes=notes, memory_bytes=memory)


def _memory(recipe: Recipe, found: Estimate) -> Mapping[str, int]:
    """The own engine's components, with both conversations of a pair, and the reference model."""
    times = 2 if recipe.method in _PAIRS else 1
    memory = {name: size * (times if name in _OF_ROWS else 1) for name, size in found.memory_bytes.items()}
    if memory and holds_reference(recipe) and found.parameters is not None:
        memory["reference"] = found.parameters * _BYTES
    return memory
