"""Another plan for the attempts of a run from now on: other machines and processes, the same training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa.runs.store import Run

CHANGEABLE = (
    "cluster.",
    "distributed.",
    "checkpointing.",
    "training.microbatch_size_per_gpu",
    "training.grad_accumulation_steps",
    "training.save_every_steps",
)
"""Beginnings of the recipe keys that a resume may change: none of them changes what is computed."""
_TAKEN_OVER = ("nexa_version", "recipe", "launch", "resources", "batch", "estimate", "settings")


def replan(run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's plan with `overrides` ("key.path=value") on its recipe; the rows of a step stay the same.

    Raises UserError for a key that would change the training, RecipeError with every problem of the new
    plan.
    """
    from nexa.plan import make_plan
    from nexa.plugins import get_host
    from nexa.recipe.load import load_recipe
    from nexa.settings import get_settings

    refused = [text for text in overrides if not _may_change(text.partition("=")[0].strip())]
    if refused:
        raise UserError(
            f"a resumed run can't change {', '.join(refused)}",
            hint=f"it can change {', '.join(f'{key}*' if key.endswith('.') else key for key in CHANGEABLE)}; "
            "for more start a new run from its checkpoint: nexa launch … model.name=CHECKPOINT",
        )
    rows = run.plan["batch"]["global_batch_size"]
    # What followed from the old number of processes follows from the new one.
    batch = [f"training.global_batch_size={rows}", "training.grad_accumulation_steps=null"]
    loaded = load_recipe(run.path / "recipe.yaml", overrides=[*batch, *run.plan.get("overrides", ()), *overrides])
    plan = make_plan(loaded, host=get_host(), settings=get_settings())
    plan.require_startable()
    plan.environment.place_code()
    plan.environment.claim(run.path)
    document = plan.document()
    return {
        **run.plan,
        **{key: document[key] for key in _TAKEN_OVER},
        "overrides": [*run.plan.get("overrides", ()), *overrides],
    }


def _may_change(key: str) -> bool:
    return any(key.startswith(allowed) if allowed.endswith(".") else key == allowed for allowed in CHANGEABLE) or (
        key == "distributed"
    )
