"""Which methods heed the recipe's sections `preference` and `rollouts`, and what methods on preferences refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nexa.recipe.schema import Recipe

if TYPE_CHECKING:
    from nexa_hf.methods.base import Arguments, Refusal, Translation

USERS: Mapping[str, tuple[str, ...]] = {
    "preference.beta": ("dpo", "kto", "orpo"),
    "preference.loss_type": ("dpo",),
    "preference.label_smoothing": ("dpo",),
    "preference.desirable_weight": ("kto",),
    "preference.undesirable_weight": ("kto",),
    "preference.reference_model": ("dpo", "kto"),
    "preference.precompute_reference": ("dpo", "kto"),
    "preference.center_rewards": ("reward",),
    **{path: ("grpo",) for path in Recipe.leaf_paths() if path.startswith("rollouts.")},
}
"""The methods that heed each field of these sections."""


def unused_fields(method: str) -> dict[str, Refusal]:
    """A refusal for each field of these sections that is for other methods."""

    def refusal(path: str) -> Refusal:
        return lambda recipe: f"method {method} has no use for it; these have: {', '.join(USERS[path])}"

    return {path: refusal(path) for path, users in USERS.items() if method not in users}


def _streaming(recipe: Recipe) -> str | None:
    return "rows are checked and encoded whole before training" if recipe.data.streaming else None


def preference_refusals(method: str) -> dict[str, Refusal]:
    """What methods on preferences refuse beside the fields of other methods."""
    return {
        **unused_fields(method),
        "data.streaming": _streaming,
        "data.stream_window": lambda recipe: "only streamed data has windows",
        "data.packing": lambda recipe: "an example is a row of its own",
        "data.train_on": lambda recipe: "the loss is that of whole answers",
        "training.activation_checkpointing": lambda recipe: (
            "TRL's trainer of this method recomputes whole blocks; set true or false"
            if recipe.training.activation_checkpointing == "selective"
            else None
        ),
    }


def _dropout(recipe: Recipe) -> Arguments:
    """TRL turns all dropout off by default, also that of the adapter."""
    return {"disable_dropout": not (recipe.adapter is not None and recipe.adapter.dropout)}


def _offload(recipe: Recipe) -> Arguments:
    return {"activation_offloading": True} if recipe.training.activation_offload else {}


DROPOUT: Mapping[str, Translation] = {"adapter.dropout": _dropout}
OFFLOAD: Mapping[str, Translation] = {"training.activation_offload": _offload}
NO_OFFLOAD: Mapping[str, Refusal] = {
    "training.activation_offload": lambda recipe: "TRL's trainer of this method keeps activations on their device"
}
