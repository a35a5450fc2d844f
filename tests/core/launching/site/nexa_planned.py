"""A backend and a scheduler that can only be planned with."""

import time

from nexa.backend import Answer, Backend, Estimate, LaunchSpec, SettingAnswer
from nexa.errors import Problem
from nexa.hookspecs import hookimpl
from nexa.recipe.schema import Recipe
from nexa.scheduler import ClusterView, Scheduler, Submission
from nexa.specs import BackendSpec, SchedulerSpec

REFUSED = {"training.precision", "samples.prompts"}


class Planned(Backend):
    def check(self, recipe):
        missing = recipe.model.name == "absent"
        return [Problem(path="model.name", message="there is no model 'absent'")] if missing else []

    def settings(self, recipe):
        for path in Recipe.leaf_paths():
            refused = path in REFUSED
            detail = "seeds everything" if path == "training.seed" else "fp32 only" if refused else ""
            answer = Answer.REFUSED if refused else Answer.TRANSLATED if detail else Answer.HONOURED
            yield SettingAnswer(path=path, answer=answer, detail=detail)

    def plan(self, recipe, resources):
        return LaunchSpec(
            python="/opt/python",
            factory="nexa_planned:Planned",
            processes_per_node=resources.processes_per_node,
            env={"THREADS": "1"},
        )

    def estimate(self, recipe, resources):
        size = recipe.meta.get("checkpoint_bytes")
        return Estimate(parameters=7_500_000_000, checkpoint_bytes=size, total_steps=recipe.training.max_steps)

    def preview(self, recipe):
        raise AssertionError("planning loads no data")

    def run(self, context):
        raise AssertionError("planning trains nothing")


class Paper(Scheduler):
    def check(self, recipe, resources):
        many = resources.num_nodes > 2
        return [Problem(path="cluster.num_nodes", message=f"{resources.num_nodes} nodes, 2 exist")] if many else []

    def plan(self, recipe, attempt, launch, resources):
        return Submission(argv=["paper", str(attempt.run_dir), str(attempt.number), str(resources.world_size)])

    def submit(self, attempt, submission):
        raise AssertionError("planning submits nothing")

    def status(self, jobs):
        return []

    def cancel(self, job, *, force):
        pass

    def cluster(self):
        return ClusterView(taken_at=time.time())


@hookimpl
def nexa_register_backends():
    return [BackendSpec(name="planned", summary="-", factory="nexa_planned:Planned", methods=("sft", "pretrain"))]


@hookimpl
def nexa_register_schedulers():
    return [SchedulerSpec(name="paper", summary="-", factory="nexa_planned:Paper")]
