"""Launching and the Python API: real local runs of a small backend installed as a third party's is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nexa
from nexa.api import last_checkpoint, wait, wait_until_ended
from nexa.errors import NexaError, RecipeError, UserError, WorkerError
from nexa.plugins import get_host
from nexa.recipe.schema import Recipe
from nexa.runs.actions import kill
from nexa.runs.state import State, run_status
from nexa.runs.store import RunStore

PLUGIN = """
import sys
import time

from nexa.backend import Answer, Backend, LaunchSpec, RunResult, RunState, SettingAnswer
from nexa.errors import NexaError, WorkerError
from nexa.hookspecs import hookimpl
from nexa.scheduler import Scheduler, Submission
from nexa.specs import BackendSpec, SchedulerSpec


class Small(Backend):
    def check(self, recipe):
        return []

    def settings(self, recipe):
        from nexa.settings_report import field_paths

        return [SettingAnswer(path=path, answer=Answer.HONOURED) for path in field_paths(type(recipe))]

    def plan(self, recipe, resources):
        return LaunchSpec(python=sys.executable, factory="nexa_small:Small")

    def preview(self, recipe):
        raise AssertionError("not asked for here")

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

    def resources(self):
        return []


@hookimpl
def nexa_register_backends():
    return [BackendSpec(name="small", summary="-", factory="nexa_small:Small", methods=("sft",))]


@hookimpl
def nexa_register_schedulers():
    return [SchedulerSpec(name="full", summary="-", factory="nexa_small:Full")]
"""

RECIPE = """\
method: sft
backend: small
model:
  name: org/model
data:
  remote_uri: hf:org/rows
training:
  max_steps: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    information = site / "nexa_small-3.1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-small\nVersion: 3.1\n")
    (information / "entry_points.txt").write_text("[nexa]\nsmall = nexa_small\n")
    (site / "nexa_small.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    get_host.cache_clear()
    yield tmp_path
    get_host.cache_clear()
    for run in runs(tmp_path):
        if run_status(run).active:
            kill(run)


def runs(folder: Path) -> list[Any]:
    return list(RunStore(folder / "runs").list())


def in_parallel(count: int, call: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_function_is_what_the_package_exports() -> None:
    import nexa.cli.launch
    import nexa.launching  # noqa: F401

    assert callable(nexa.launch)


def test_a_job_runs_to_its_checkpoint(folder: Path) -> None:
    meta = nexa.run_training_job("recipe.yaml", ["training.max_steps=5"])
    assert meta.kind == "checkpoint"
    assert meta.bytes == 5
    (run,) = runs(folder)
    assert meta == last_checkpoint(run)
    assert run.document["recipe_name"] == "recipe"
    assert (run.document["backend"], run.document["scheduler"]) == ("small", "local")
    assert run.plan["lineage"]["plugins"] == {"nexa-small": "3.1", "nexa-train": nexa.__version__}
    assert run.plan["submission"]["argv"][-2:] == [str(run.path), "1"]
    assert run.plan["recipe"]["training"]["max_steps"] == 5


def test_overrides_as_a_mapping(folder: Path) -> None:
    assert nexa.load_training_config("recipe.yaml", {"training.max_steps": 7}).training.max_steps == 7
    with pytest.raises(RecipeError, match="max_steps"):
        nexa.load_training_config("recipe.yaml", {"training.max_step": 7})


def test_a_recipe_made_in_python(folder: Path) -> None:
    recipe = nexa.load_training_config("recipe.yaml")
    renamed = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": "by-hand"})})
    assert isinstance(renamed, Recipe)
    pipeline = nexa.TrainingPipeline(renamed)
    assert pipeline.plan().run_name == "by-hand"
    assert pipeline.run().kind == "checkpoint"
    with pytest.raises(ValueError, match="overrides"):
        nexa.TrainingPipeline(renamed, ["training.max_steps=1"])


def test_a_failing_worker_raises_with_its_reason(folder: Path) -> None:
    with pytest.raises(WorkerError, match="not a number") as caught:
        nexa.run_training_job("recipe.yaml", ["meta.fails=true"])
    assert "nexa logs" in str(caught.value)


def test_a_job_without_a_checkpoint_says_so(folder: Path) -> None:
    with pytest.raises(NexaError, match="no checkpoint"):
        nexa.run_training_job("recipe.yaml", ["meta.saves=false"])


def test_launch_returns_at_once(folder: Path) -> None:
    run = nexa.launch("recipe.yaml", ["meta.step_seconds=0.05", "training.max_steps=1000"])
    assert run_status(run).active
    with pytest.raises(TimeoutError, match="still"):
        wait(run, timeout=0.3)
    kill(run)
    assert wait_until_ended(run, timeout=20).state is State.KILLED


def test_a_refusing_scheduler_leaves_a_failed_run(folder: Path) -> None:
    with pytest.raises(NexaError, match="invalid account"):
        nexa.launch("recipe.yaml", ["scheduler=full"])
    (run,) = runs(folder)
    status = run_status(run)
    assert status.state is State.FAILED
    assert "invalid account" in status.reason


def test_a_defective_scheduler_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ValueError, match="defect"):
        nexa.launch("recipe.yaml", ["scheduler=full", "meta.unplannable=true"])
    assert list((folder / "runs").iterdir()) == []


def test_launches_at_the_same_moment_are_separate_runs(folder: Path) -> None:
    made = in_parallel(6, lambda: nexa.launch("recipe.yaml"))
    assert len({run.run_id for run in made}) == 6
    assert {wait(run, timeout=60).state for run in made} == {State.COMPLETED}


def test_secrets_stay_out_of_the_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    monkeypatch.setattr("sys.argv", ["nexa", "launch", "recipe.yaml", "meta.note=hunter2hunter2"])
    run = nexa.launch("recipe.yaml")
    wait(run, timeout=60)
    assert run.document["argv"][:3] == ["nexa", "launch", "recipe.yaml"]
    assert not [path for path in run.path.rglob("*.json") if "hunter2" in path.read_text()]


def test_save_run_manifest(folder: Path) -> None:
    path = nexa.save_run_manifest(folder / "new" / "run", {"run_id": "r", "loss": 1.5})
    assert path == folder / "new" / "run" / "manifest.json"
    assert json.loads(path.read_text()) == {"run_id": "r", "loss": 1.5}
    with pytest.raises(UserError, match="can't write"):
        nexa.save_run_manifest(folder, {"loss": object()})
    with pytest.raises(UserError, match="can't write"):
        nexa.save_run_manifest(folder / "recipe.yaml", {})
