"""A resume may give a run other machines and processes; the attempts after it follow the new plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexa.errors import UserError
from nexa.runs.replanning import replan
from nexa.runs.store import Run
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import make_run
from nexa.worker.place import read_plan


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of four rows a step on one process."""
    recipe = tiny_recipe(tmp_path / "data", {"training.global_batch_size": 4, "training.microbatch_size_per_gpu": 1})
    return make_run(recipe, tmp_path)


def test_the_rows_of_a_step_stay(run: Run) -> None:
    plan = replan(run, ["cluster.processes_per_node=2", "distributed=fsdp", "training.microbatch_size_per_gpu=2"])
    assert plan["batch"] == {
        "microbatch_size": 2,
        "accumulation_steps": 1,
        "global_batch_size": 4,
        "world_size": 2,
    }
    assert plan["launch"]["processes_per_node"] == 2
    assert plan["recipe"]["distributed"]["strategy"] == "fsdp"
    assert {key: plan[key] for key in ("run_id", "schema", "store")} == {
        key: run.plan[key] for key in ("run_id", "schema", "store")
    }


@pytest.mark.parametrize(
    "text", ["optimizer.lr=1", "data.remote_uri=x", "training.max_steps=9", "clusters.num_nodes=1"]
)
def test_the_training_itself_can_not_change(run: Run, text: str) -> None:
    with pytest.raises(UserError, match="can't change") as caught:
        replan(run, [text])
    assert "cluster.*" in (caught.value.hint or "")


def test_processes_that_do_not_divide_the_rows(run: Run) -> None:
    with pytest.raises(UserError, match="3 processes"):
        replan(run, ["cluster.processes_per_node=3"])


def test_later_attempts_follow_the_newest_plan(run: Run) -> None:
    first = run.plan
    run.create_attempt(1, resume_from=None, reason="test")
    changed = replan(run, ["cluster.processes_per_node=2"])
    run.create_attempt(2, resume_from=None, reason="test", plan=changed)
    run.create_attempt(3, resume_from=None, reason="test")
    assert read_plan(run.path, 1) == first
    assert read_plan(run.path, 2) == read_plan(run.path, 3) == run.plan
    again = replan(run, ["distributed=fsdp"])
    assert again["recipe"]["cluster"]["processes_per_node"] == 2
    assert again["recipe"]["distributed"]["strategy"] == "fsdp"
