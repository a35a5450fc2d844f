"""A backend that counts steps, and a scheduler that takes no job."""

import sys
import time

from nexa.backend import Answer, Backend, LaunchSpec, Preview, PreviewToken, RunResult, RunState, SettingAnswer
from nexa.errors import DataError, NexaError, WorkerError
from nexa.hookspecs import hookimpl
from nexa.scheduler import ClusterView, Scheduler, Submission
from nexa.specs import BackendSpec, SchedulerSpec


class Small(Backend):
    def check(self, recipe):
        return []

    def settings(self, recipe):
        return [SettingAnswer(path=path, answer=Answer.HONOURED) for path in recipe.leaf_paths()]

    def plan(self, recipe, resources):
        return LaunchSpec(python=sys.executable, factory="nexa_small:Small")

    def preview(self, recipe):
        if recipe.meta.get("bad_data"):
            raise DataError("rows.jsonl:3: not JSON")
        words = [("<user>", False), ("hi\x1b[31m", False), ("<assistant>", False), ("arr", True), ("<end>", True)]
        row = [PreviewToken(id=number, text=text, trained=trained) for number, (text, trained) in enumerate(words)]
        return Preview(
            rows=[row, row, row], documents=7, tokens=35, trained_tokens=14, total_steps=3, warnings=["short\x07"]
        )

    def run(self, context):
        meta = context.recipe["meta"]
        steps = context.recipe["training"]["max_steps"]
        for step in range(1, steps + 1):
            if context.stop_requested():
                return RunResult(state=RunState.STOPPED, step=step)
            time.sleep(meta.get("step_seconds", 0))
        if meta.get("fails"):
            raise WorkerError("the loss is not a number")
        if meta.get("saves", True):
            staged = context.checkpoints.stage(steps)
            (staged / "weights").write_text("w" * steps)
            name = context.checkpoints.commit(steps, staged, metrics={"loss": 1.0})
            return RunResult(state=RunState.COMPLETED, step=steps, checkpoint=name)
        return RunResult(state=RunState.COMPLETED, step=steps)


class Full(Scheduler):
    def check(self, recipe, resources):
        return []

    def plan(self, recipe, attempt, launch, resources):
        if recipe.meta.get("unplannable"):
            raise ValueError("a defect of the scheduler")
        return Submission(argv=["queue"])

    def submit(self, attempt, submission):
        raise NexaError("queue: invalid account")

    def status(self, jobs):
        return []

    def cancel(self, job, *, force):
        pass

    def cluster(self):
        return ClusterView(taken_at=time.time())


@hookimpl
def nexa_register_backends():
    return [BackendSpec(name="small", summary="-", factory="nexa_small:Small", methods=("sft",))]


@hookimpl
def nexa_register_schedulers():
    return [SchedulerSpec(name="full", summary="-", factory="nexa_small:Full")]
