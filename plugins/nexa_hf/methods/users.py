"""Which methods heed the fields of the recipe's sections `preference` and `rollouts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nexa.recipe.schema import Recipe

if TYPE_CHECKING:
    from nexa_hf.methods.base import Refusal
    from nexa_torch.data.preferences import PreferenceFormat

ANSWERING = tuple(f"rollouts.{name}" for name in ("max_completion_length", "temperature", "top_p", "top_k"))
"""How a model answers a prompt in training."""

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
    **dict.fromkeys(ANSWERING, ("grpo", "distill")),
}
"""The methods that heed each field of these sections."""


LAYOUTS: Mapping[str, tuple[PreferenceFormat, ...]] = {
    "dpo": ("preference",),
    "kto": ("unpaired", "preference"),
    "orpo": ("preference",),
    "reward": ("preference",),
    "grpo": ("prompts",),
}
"""Row layouts that each method on preferences and rewards trains on."""
_ALL_LAYOUTS = {layout for layouts in LAYOUTS.values() for layout in layouts}


def _layout(method: str) -> Refusal:
    """The refusal of a row layout that is for other methods."""

    def refusal(recipe: Recipe) -> str | None:
        given = recipe.data.format
        if method in LAYOUTS:
            unfit = given != "auto" and given not in LAYOUTS[method]
            return f"method {method} trains on rows of the layout {' or '.join(LAYOUTS[method])}" if unfit else None
        return f"rows of the layout {given} are for the methods {', '.join(LAYOUTS)}" if given in _ALL_LAYOUTS else None

    return refusal


def unused_fields(method: str) -> dict[str, Refusal]:
    """A refusal for each field of these sections, and for each row layout, that is for other methods."""

    def refusal(path: str) -> Refusal:
        return lambda recipe: f"method {method} has no use for it; these have: {', '.join(USERS[path])}"

    unused = {path: refusal(path) for path, users in USERS.items() if method not in users}
    return {**unused, "data.format": _layout(method)}
