"""How long a planned run will take, judged by the newest run of the same recipe on the same machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexa.errors import NexaError

if TYPE_CHECKING:
    from nexa.plan import Plan

# Older runs than this are not looked at, so that a folder of thousands answers quickly.
_RUNS_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Expected seconds of training, and the run that they are judged by."""

    seconds: float
    run_id: str


def forecast(plan: Plan) -> Forecast | None:
    """The planned steps at the speed of the newest comparable run; None without one.

    Comparable is a run of this recipe with the same model, adapter, precision, row length, batch and machines.
    """
    from dataclasses import asdict

    from nexa.runs.state import run_status
    from nexa.runs.store import RunStore

    steps = plan.estimate.total_steps or plan.recipe.training.max_steps
    if steps is None:
        return None
    wanted = _speed_keys(plan.recipe.document(), asdict(plan.batch), asdict(plan.resources))
    try:
        runs = RunStore(plan.runs_dir).list()[:_RUNS_LOOKED_AT]
    except NexaError:
        return None
    for run in runs:
        try:
            same = run.document.get("recipe_name") == plan.recipe_name
            planned = run.plan if same else {}
        except NexaError:
            continue
        if not same or _speed_keys(planned["recipe"], planned["batch"], planned["resources"]) != wanted:
            continue
        per_step = run_status(run).metrics.get("step_seconds")
        if per_step:
            return Forecast(seconds=per_step * steps, run_id=run.run_id)
    return None


def _speed_keys(recipe: dict[str, Any], batch: dict[str, Any], resources: dict[str, Any]) -> list[Any]:
    training = recipe["training"]
    return [
        recipe["backend"],
        recipe["model"],
        recipe["adapter"],
        training.get("precision"),
        training.get("activation_checkpointing"),
        batch,
        resources,
    ]
