"""Which methods heed the fields of the recipe's sections `preference` and `rollouts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nexa.recipe.schema import Recipe

if TYPE_CHECKING:
    from nexa_hf.methods.base import Refusal

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
