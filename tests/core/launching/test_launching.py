"""Launching and the Python API: real local runs of a small backend installed as a third party's is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nexa
from nexa.api import last_checkpoint, wait, wait_until_ended
from nexa.errors import NexaError, RecipeError, UserError, WorkerError
from nexa.recipe.schema import Recipe
from nexa.runs.actions import kill
from nexa.runs.state import State, run_status
from nexa.runs.store import RunStore


def runs(project: Path) -> list[Any]:
    return list(RunStore(project / "runs").list())


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
    import nexa.launching

    assert callable(nexa.launch)


def test_a_job_runs_to_its_checkpoint(project: Path) -> None:
    meta = nexa.run_training_job("recipe.yaml", ["training.max_steps=5"])
    assert meta.kind == "checkpoint"
    assert meta.bytes == 5
    (run,) = runs(project)
    assert meta == last_checkpoint(run)
    assert run.document["recipe_name"] == "recipe"
    assert (run.document["backend"], run.document["scheduler"]) == ("small", "local")
    assert run.plan["lineage"]["plugins"] == {"nexa-small": "3.1", "nexa-train": nexa.__version__}
    assert run.plan["submission"]["argv"][-2:] == [str(run.path), "1"]
    assert run.plan["recipe"]["training"]["max_steps"] == 5


def test_overrides_as_a_mapping(project: Path) -> None:
    assert nexa.load_training_config("recipe.yaml", {"training.max_steps": 7}).training.max_steps == 7
    with pytest.raises(RecipeError, match="max_steps"):
        nexa.load_training_config("recipe.yaml", {"training.max_step": 7})


def test_a_recipe_made_in_python(project: Path) -> None:
    recipe = nexa.load_training_config("recipe.yaml")
    renamed = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": "by-hand"})})
    assert isinstance(renamed, Recipe)
    pipeline = nexa.TrainingPipeline(renamed)
    assert pipeline.plan().run_name == "by-hand"
    assert pipeline.run().kind == "checkpoint"
    with pytest.raises(ValueError, match="overrides"):
        nexa.TrainingPipeline(renamed, ["training.max_steps=1"])


def test_a_failing_worker_raises_with_its_reason(project: Path) -> None:
    with pytest.raises(WorkerError, match="not a number") as caught:
        nexa.run_training_job("recipe.yaml", ["meta.fails=true"])
    assert "nexa logs" in str(caught.value)


def test_a_job_without_a_checkpoint_says_so(project: Path) -> None:
    with pytest.raises(NexaError, match="no checkpoint"):
        nexa.run_training_job("recipe.yaml", ["meta.saves=false"])


def test_launch_returns_at_once(project: Path) -> None:
    run = nexa.launch("recipe.yaml", ["meta.step_seconds=0.05", "training.max_steps=1000"])
    assert run_status(run).active
    with pytest.raises(TimeoutError, match="still"):
        wait(run, timeout=0.3)
    kill(run)
    assert wait_until_ended(run, timeout=20).state is State.KILLED


def test_a_refusing_scheduler_leaves_a_failed_run(project: Path) -> None:
    with pytest.raises(NexaError, match="invalid account"):
        nexa.launch("recipe.yaml", ["scheduler=full"])
    (run,) = runs(project)
    status = run_status(run)
    assert status.state is State.FAILED
    assert "invalid account" in status.reason


def test_a_defective_scheduler_leaves_nothing(project: Path) -> None:
    with pytest.raises(ValueError, match="defect"):
        nexa.launch("recipe.yaml", ["scheduler=full", "meta.unplannable=true"])
    assert list((project / "runs").iterdir()) == []


def test_launches_at_the_same_moment_are_separate_runs(project: Path) -> None:
    made = in_parallel(6, lambda: nexa.launch("recipe.yaml"))
    assert len({run.run_id for run in made}) == 6
    assert {wait(run, timeout=60).state for run in made} == {State.COMPLETED}


def test_secrets_stay_out_of_the_record(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    monkeypatch.setattr("sys.argv", ["nexa", "launch", "recipe.yaml", "meta.note=hunter2hunter2"])
    run = nexa.launch("recipe.yaml")
    wait(run, timeout=60)
    assert run.document["argv"][:3] == ["nexa", "launch", "recipe.yaml"]
    assert not [path for path in run.path.rglob("*.json") if "hunter2" in path.read_text()]


def test_save_run_manifest(project: Path) -> None:
    path = nexa.save_run_manifest(project / "new" / "run", {"run_id": "r", "loss": 1.5})
    assert path == project / "new" / "run" / "manifest.json"
    assert json.loads(path.read_text()) == {"run_id": "r", "loss": 1.5}
    with pytest.raises(UserError, match="can't write"):
        nexa.save_run_manifest(project, {"loss": object()})
    with pytest.raises(UserError, match="can't write"):
        nexa.save_run_manifest(project / "recipe.yaml", {})
