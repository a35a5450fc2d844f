"""A backend that trains nothing: it waits between steps, so that schedulers can be tested anywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nexa.backend import (
    Answer,
    Backend,
    LaunchSpec,
    Preview,
    PreviewToken,
    Resources,
    RunResult,
    RunState,
    SettingAnswer,
)

if TYPE_CHECKING:
    from nexa.errors import Problem
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext

SECONDS_PER_STEP = 0.05


class IdleBackend(Backend):
    """Counts to `training.max_steps`, one step each `SECONDS_PER_STEP`; commits a checkpoint at its end."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Nothing can be wrong with waiting."""
        return []

    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """Only the number of steps means anything here."""
        return [
            SettingAnswer(path=path, answer=Answer.HONOURED)
            if path == "training.max_steps"
            else SettingAnswer(path=path, answer=Answer.REFUSED, detail="nothing is trained")
            for path in recipe.leaf_paths()
        ]

    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """Run in this environment."""
        factory = f"{type(self).__module__}:{type(self).__qualname__}"
        return LaunchSpec(python=sys.executable, factory=factory, processes_per_node=resources.processes_per_node)

    def preview(self, recipe: Recipe) -> Preview:
        """One token, since there is no data."""
        steps = recipe.training.max_steps or 1
        rows = [[PreviewToken(id=0, text="…", trained=True)]]
        return Preview(rows=rows, documents=1, tokens=1, trained_tokens=1, total_steps=steps)

    def run(self, context: RunContext) -> RunResult:
        """Wait, step by step, until done or asked to stop."""
        total = int(context.recipe["training"]["max_steps"] or 1)
        step, reason = 0, None
        while step < total and reason is None:
            time.sleep(SECONDS_PER_STEP)
            step += 1
            if context.rank == 0:
                context.events.write("metrics", step=step, values={"loss": 1.0 / step})
            reason = context.stop_requested()
        state = RunState.COMPLETED if reason is None else RunState.STOPPED
        name = _commit(context, step) if context.rank == 0 else None
        return RunResult(state=state, step=step, metrics={"loss": 1.0 / step}, checkpoint=name)


def _commit(context: RunContext, step: int) -> str:
    staged = context.checkpoints.stage(step)
    (staged / "step.txt").write_text(f"{step}\n", encoding="ascii")
    return context.checkpoints.commit(step, staged, metrics={"loss": 1.0 / step})
