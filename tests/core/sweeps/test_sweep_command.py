"""`nexa sweep` on this machine: real runs, started by a queue that survives the terminal and its own death."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time

import pytest

from nexa.cli.main import main
from nexa.events.reader import EventReader
from nexa.runs import actions
from nexa.runs.state import run_status


def nexa(capsys, *arguments, exit_code=0):
    """Run a command in this process and return what it printed."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == exit_code, captured.out + captured.err
    return captured.out + captured.err


def test_three_runs_one_after_another_and_their_table(sweeps, capsys):
    text = nexa(capsys, "sweep", "recipe.yaml", "training.max_steps=1,2,3", "meta.step_seconds=0.01")
    sweep = sweeps.newest()
    assert sweep.sweep_id in text
    sweeps.await_states(sweep, ["completed"] * 3)
    assert [run_status(run).step for run in sweep.runs()] == [1, 2, 3]
    first = sweep.runs()[0].document
    assert first["sweep"] == {
        "id": sweep.sweep_id,
        "number": 1,
        "overrides": {"training.max_steps": "1", "meta.step_seconds": "0.01"},
    }
    assert first["name"] == "recipe-1"
    ends = [run.attempts[0].read("exit")["ended_at"] for run in sweep.runs()]
    begins = [EventReader(run.attempts[0].events_path).poll()[0]["ts"] for run in sweep.runs()]
    assert begins[1] >= ends[0]
    assert begins[2] >= ends[1]
    table = nexa(capsys, "sweep", "show", "latest")
    assert "training.max_steps" in table
    assert "meta.step_seconds" not in table
    assert "3 completed" in table
    document = json.loads(nexa(capsys, "sweep", "show", "recipe", "--json"))
    assert [run["status"]["state"] for run in document["runs"]] == ["completed"] * 3
    rows = list(csv.DictReader(io.StringIO(nexa(capsys, "sweep", "show", sweep.sweep_id, "--csv"))))
    assert [(row["training.max_steps"], row["step"]) for row in rows] == [("1", "1"), ("2", "2"), ("3", "3")]
    assert "3 completed" in nexa(capsys, "sweep", "list")
    assert "no run" in nexa(capsys, "sweep", "resume", "latest", exit_code=2)


def test_a_dry_run_shows_every_run_and_the_command_and_writes_nothing(sweeps, capsys):
    text = nexa(capsys, "sweep", "--dry-run", "recipe.yaml", "optimizer.lr=log(1e-4,1e-2,3)", "training.seed=1,2")
    assert "0.001" in text
    assert "recipe-6" in text
    assert "-m nexa.sweeps.queue" in text
    assert [path.name for path in sweeps.folder.iterdir()] == ["recipe.yaml"]
    document = json.loads(
        nexa(capsys, "sweep", "recipe.yaml", "optimizer.lr=log(1e-4,1e-2)", "--random", "4", "--dry-run", "--json")
    )
    assert len(document["members"]) == 4


def test_all_problems_of_all_runs_come_before_anything_is_written(sweeps, capsys):
    text = nexa(capsys, "sweep", "recipe.yaml", "training.max_steps=1,-1,2", "optimizer.absent=3", exit_code=2)
    assert "in run 2 (training.max_steps=-1 optimizer.absent=3)" in text
    assert text.count("absent") == 2
    assert "run 1" not in text
    assert not (sweeps.folder / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe.yaml"], "needs values to try"),
        (["absent.yaml", "a=1,2"], "absent"),
        (["training.max_steps=1,2"], "which recipe"),
        (["recipe.yaml", "optimizer.lr=1e-4,1e-3", "--lr", "1e-5"], "set by a flag"),
        (["recipe.yaml", "training.max_steps=1,2", "--seed", "1"], "--seed belongs to --random"),
        (["recipe.yaml", "optimizer.lr=uniform(0,1)"], "--random N"),
        (["recipe.yaml", "scheduler=local,slurm"], "slurm"),
        (["show", "latest"], "no sweeps"),
        (["resume", "x"], "no sweeps"),
    ],
)
def test_bad_input_is_refused_in_one_message(sweeps, capsys, arguments, words):
    assert words in nexa(capsys, "sweep", *arguments, exit_code=2)
    assert not list(sweeps.runs.list())


def test_a_killed_queue_is_resumed_and_waiting_runs_say_what_they_wait_for(sweeps, capsys):
    nexa(capsys, "sweep", "recipe.yaml", "training.max_steps=400,2,3", "meta.step_seconds=0.05")
    sweep = sweeps.newest()
    first, second, third = sweep.runs()
    sweeps.await_states(sweep, ["running", "queued", "queued"])
    assert sweep.sweep_id in run_status(second).reason
    assert "at work" in nexa(capsys, "sweep", "resume", "latest", exit_code=2)
    sweeps.kill_queue(sweep)
    sweeps.await_states(sweep, ["running", "lost", "lost"])
    assert f"nexa sweep resume {sweep.sweep_id}" in run_status(third).reason
    assert "2 runs go on" in nexa(capsys, "sweep", "resume", "latest")
    sweeps.await_states(sweep, ["running", "queued", "queued"])
    actions.stop(first)
    sweeps.await_states(sweep, ["stopped", "completed", "completed"])
    assert [len(run.attempts) for run in sweep.runs()] == [1, 1, 1]


def test_a_waiting_run_can_be_stopped_and_one_stop_ends_the_whole_sweep(sweeps, capsys):
    nexa(capsys, "sweep", "recipe.yaml", "training.max_steps=range(1000,1004)", "meta.step_seconds=0.05")
    sweep = sweeps.newest()
    sweeps.await_states(sweep, ["running", "queued", "queued", "queued"])
    actions.stop(sweep.runs()[1])
    sweeps.await_states(sweep, ["running", "stopped", "queued", "queued"])
    assert "before its turn" in run_status(sweep.runs()[1]).reason
    nexa(capsys, "sweep", "stop", "latest")
    sweeps.await_states(sweep, ["stopped"] * 4)
    assert not any((run.path / "logs" / "1-0.log").exists() for run in sweep.runs()[1:])


def test_a_failing_run_does_not_keep_the_others_and_is_tried_again_on_request(sweeps, capsys):
    nexa(capsys, "sweep", "recipe.yaml", "meta.fails=true,false", "--max-concurrent", "2")
    sweep = sweeps.newest()
    sweeps.await_states(sweep, ["failed", "completed"])
    assert "the loss is not a number" in nexa(capsys, "sweep", "show", "latest")
    assert "1 run goes on" in nexa(capsys, "sweep", "resume", "--failed", "latest")
    deadline = time.monotonic() + 60
    while len(sweep.runs()[0].attempts) < 2 or sweeps.states(sweep) != ["failed", "completed"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_removed_run_leaves_its_row(sweeps, capsys):
    nexa(capsys, "sweep", "recipe.yaml", "training.max_steps=1,2")
    sweep = sweeps.newest()
    sweeps.await_states(sweep, ["completed"] * 2)
    shutil.rmtree(sweep.runs()[0].path)
    assert "1 removed, 1 completed" in nexa(capsys, "sweep", "show", "latest")
