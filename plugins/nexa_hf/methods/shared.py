"""What the methods on preferences and rewards have in common: what they refuse, and arguments of TRL's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import Arguments, Refusal, TrainingData, Translation


def _streaming(recipe: Recipe) -> str | None:
    return "rows are checked and encoded whole before training" if recipe.data.streaming else None


def _selective(recipe: Recipe) -> str | None:
    if recipe.training.activation_checkpointing == "selective":
        return "TRL's trainer of this method recomputes whole blocks; set true or false"
    return None


REFUSALS: Mapping[str, Refusal] = {
    "data.streaming": _streaming,
    "data.packing": lambda recipe: "an example is a row of its own" if recipe.data.packing else None,
    "data.train_on": lambda recipe: "the loss is that of whole answers",
    "training.activation_checkpointing": _selective,
}
"""What every method on preferences refuses."""


def _dropout(recipe: Recipe) -> Arguments:
    """TRL turns all dropout off by default, also that of the adapter."""
    return {"disable_dropout": not (recipe.adapter is not None and recipe.adapter.dropout)}


def _offload(recipe: Recipe) -> Arguments:
    return {"activation_offloading": True} if recipe.training.activation_offload else {}


def _length(recipe: Recipe) -> Arguments:
    return {"max_length": recipe.model.max_seq_len} if recipe.model.max_seq_len else {}


def sized(data: TrainingData) -> Arguments:
    """The longest row, where the recipe does not say."""
    return {"max_length": data.row_length}


LENGTH: Mapping[str, Translation] = {"model.max_seq_len": _length}
DROPOUT: Mapping[str, Translation] = {"adapter.dropout": _dropout}
OFFLOAD: Mapping[str, Translation] = {"training.activation_offload": _offload}
NO_OFFLOAD: Mapping[str, Refusal] = {
    "training.activation_offload": lambda recipe: "TRL's trainer of this method keeps activations on their device"
}
