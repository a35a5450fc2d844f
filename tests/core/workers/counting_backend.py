"""A real backend without any library: counts steps, writes events and commits checkpoints.

`recipe.meta` steers it: steps, step_seconds, save_every, and misbehaviour at a step
(fail_at, crash_at, exit_at, kill_at, hang_at).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence

from nexa.backend import (
    Answer,
    Backend,
    LaunchSpec,
    Preview,
    Resources,
    RunResult,
    RunState,
    SettingAnswer,
)
from nexa.errors import DataError, Problem
from nexa.worker.context import RunContext


class CountingBackend(Backend):
    """Counts to `meta.steps`; its state is the step and the sum of all steps."""

    def check(self, recipe) -> Sequence[Problem]:
        return []

    def settings(self, recipe) -> Sequence[SettingAnswer]:
        return [SettingAnswer(path=path, answer=Answer.HONOURED) for path in recipe.leaf_paths()]

    def plan(self, recipe, resources: Resources) -> LaunchSpec:
        return LaunchSpec(python=sys.executable, factory="counting_backend:CountingBackend")

    def preview(self, recipe) -> Preview:
        return Preview(rows=[], documents=0, tokens=0, trained_tokens=0, total_steps=0)

    def run(self, context: RunContext) -> RunResult:
        meta = context.recipe["meta"]
        total = meta.get("steps", 5)
        step = total_sum = 0
        if context.resume_from is not None:
            state = json.loads((context.resume_from / "state.json").read_text())
            step, total_sum = state["step"], state["sum"]
        print(f"rank {context.rank} counts from {step} to {total}", flush=True)
        saved = None
        while step < total:
            reason = context.stop_requested()
            if reason:
                saved = self._save(context, step, total_sum)
                return RunResult(state=RunState.STOPPED, step=step, checkpoint=saved)
            step += 1
            total_sum += step
            time.sleep(meta.get("step_seconds", 0.0))
            self._misbehave(context, meta, step)
            if context.rank == 0:
                context.events.write("progress", phase="training", step=step, total_steps=total)
                context.events.write("metrics", step=step, values={"loss": 10.0 / step, "sum": total_sum})
                if step % meta.get("save_every", 10**9) == 0:
                    saved = self._save(context, step, total_sum)
        saved = self._save(context, step, total_sum)
        return RunResult(
            state=RunState.COMPLETED, step=step, metrics={"loss": 10.0 / step, "sum": total_sum}, checkpoint=saved
        )

    def _save(self, context: RunContext, step: int, total_sum: int) -> str | None:
        if context.rank != 0:
            return None
        staged = context.checkpoints.stage(step)
        (staged / "state.json").write_text(json.dumps({"step": step, "sum": total_sum}))
        return context.checkpoints.commit(
            step, staged, metrics={"loss": 10.0 / max(step, 1)}, lineage={"dataset": {"hash": "sha256:" + "0" * 64}}
        )

    def _misbehave(self, context: RunContext, meta: dict, step: int) -> None:
        if context.rank != meta.get("rank", 0) or (context.attempt > 1 and not meta.get("always")):
            return
        if step == meta.get("fail_at"):
            raise DataError("rows.jsonl:7: not a JSON object", hint="remove the row")
        if step == meta.get("crash_at"):
            raise RuntimeError(f"broken; the token is {os.environ.get('CANARY_TOKEN')}")
        if step == meta.get("exit_at"):
            sys.exit(0)
        if step == meta.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == meta.get("hang_at"):
            time.sleep(3600)
