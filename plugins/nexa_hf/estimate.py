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
    from nexa_hf.methods.base import Logits

_PAIRS = ("dpo", "orpo", "reward")
_FP32 = 4
_LIBRARY_BYTES = 540_000_000
"""Python with transformers, TRL, PEFT and datasets, resident, as measured on x86-64 Linux."""


def estimate(recipe: Recipe, resources: Resources) -> Estimate:
    """Parameters, memory and checkpoint size; notes say where the own engine does the same faster."""
    found = torch_estimate.estimate(recipe, resources)
    try:
        method = find_method(recipe.method)
    except UserError:
        return found
    notes = [*found.notes, *([method.slow] if method.slow else [])]
    memory = _memory(recipe, found, method.logits)
    if "reference" in memory:
        notes.append("the reference model is as large as the trained one")
    return replace(found, notes=notes, memory_bytes=memory)


def _memory(recipe: Recipe, found: Estimate, logits: Logits) -> Mapping[str, int]:
    """The own engine's components, with both conversations of a pair, these libraries, and the reference model."""
    if not found.memory_bytes or found.parameters is None:
        return found.memory_bytes
    sizes = torch_estimate.model_sizes(recipe.model)
    assert sizes is not None, "they are known where there is an estimate"
    times = 2 if recipe.method in _PAIRS else 1
    copies = logits.gpu_copies if recipe.cluster.gpus_per_node else logits.copies
    columns = min(logits.columns or sizes.vocabulary, sizes.vocabulary)
    memory = {
        **found.memory_bytes,
        "libraries": _LIBRARY_BYTES,
        "activations": times * found.memory_bytes["activations"],
        "logits": round(times * torch_estimate.microbatch_tokens(recipe) * columns * _FP32 * copies),
    }
    if holds_reference(recipe):
        memory["reference"] = found.parameters * _FP32
    return memory
