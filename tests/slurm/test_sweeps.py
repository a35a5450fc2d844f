"""`nexa sweep` as one job array: as many tasks as runs, a limit at once, and each task left to itself."""

from __future__ import annotations

from slurm_runs import launch_and_die, nexa
from workspace import until

from nexa.runs.actions import stop
from nexa.runs.jobs import job_of
from nexa.runs.state import run_statuses
from nexa.sweeps.store import Sweep, SweepStore


def newest(workspace) -> Sweep:
    """The sweep that was made last."""
    return SweepStore(workspace.runs_dir).list()[0]


def states(sweep) -> list[str]:
    """State of every run, in order."""
    return [str(status.state) for status in run_statuses(sweep.runs())]


def test_four_runs_are_one_array(workspace, cluster):
    words = ("sweep", "echo.yaml", "--scheduler", "slurm", "training.max_steps=range(3,7)", "echo.delay_seconds=0")
    plan = nexa(workspace, *words, "--dry-run", "--json").json
    assert "--array=0-3" in plan["submission"]["argv"]
    assert not workspace.runs_dir.exists()
    nexa(workspace, *words)
    sweep = newest(workspace)
    until(lambda: states(sweep), lambda seen: seen == ["completed"] * 4)
    jobs = [job_of(run.latest_attempt).job_id for run in sweep.runs()]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{task}" for task in range(4)]
    assert [status.step for status in run_statuses(sweep.runs())] == [3, 4, 5, 6]
    # Slurm's own log of a task is that of its run.
    assert all("starting workers" in (run.path / "logs" / "1-supervisor.log").read_text() for run in sweep.runs())
    shown = nexa(workspace, "sweep", "show", "latest", "--metric", "loss").out
    assert "best loss" in shown
    assert "4 completed" in shown


def test_each_task_is_stopped_alone_and_the_limit_holds(workspace, cluster):
    options = ("--max-concurrent", "2", "echo.delay_seconds=0.05")
    nexa(workspace, "sweep", "echo.yaml", "--scheduler", "slurm", "training.max_steps=1001,1002,1003,1004", *options)
    sweep = newest(workspace)
    _, second, third, fourth = sweep.runs()
    until(lambda: states(sweep), lambda seen: seen == ["running", "running", "queued", "queued"])
    until(
        lambda: run_statuses([third, fourth]),
        lambda seen: all("as many tasks of its array" in status.reason for status in seen),
    )
    view = nexa(workspace, "cluster", "--scheduler", "slurm", "--json").json
    assert {job["run_id"] for job in view["jobs"]} == {run.run_id for run in sweep.runs()}
    stop(fourth)
    until(lambda: states(sweep), lambda seen: seen == ["running", "running", "queued", "stopped"])
    assert states(sweep)[2] == "queued"
    stop(second)
    until(lambda: states(sweep)[1], lambda seen: seen == "stopped")
    # The place that became free is taken by the one that waited.
    until(lambda: states(sweep), lambda seen: seen == ["running", "stopped", "running", "stopped"])
    assert [len(run.attempts) for run in sweep.runs()] == [1, 1, 1, 1]
    nexa(workspace, "sweep", "stop", "latest")
    until(lambda: states(sweep), lambda seen: seen == ["stopped"] * 4)
    assert "4 runs go on" in nexa(workspace, "sweep", "resume", "latest", "--failed").out
    until(lambda: states(sweep)[:2], lambda seen: seen == ["running", "running"])
    assert len({job_of(run.latest_attempt).job_id.partition("_")[0] for run in sweep.runs()}) == 1
    nexa(workspace, "sweep", "stop", "latest")
    until(lambda: states(sweep), lambda seen: seen == ["stopped"] * 4)


def test_one_task_of_a_partly_begun_array_is_requeued_alone(workspace):
    words = ("sweep", "echo.yaml", "--scheduler", "slurm", "--max-concurrent", "1", "echo.delay_seconds=0.05")
    nexa(workspace, *words, "training.max_steps=1001,1002")
    sweep = newest(workspace)
    first, second = sweep.runs()
    until(lambda: states(sweep), lambda seen: seen == ["running", "queued"])
    until(lambda: run_statuses([first])[0].step or 0, lambda step: step > 3)
    nexa(workspace, "requeue", first.run_id)
    # Slurm delays a requeued task, so that the one that waited takes its place.
    until(lambda: len(first.attempts), lambda count: count == 2)
    until(lambda: states(sweep), lambda seen: seen == ["queued", "running"])
    assert first.attempts[0].read("exit")["reason"].startswith("requeued by the user; the job goes back")
    # Where it waits already there is nothing to do, now or at its next start.
    nexa(workspace, "requeue", first.run_id)
    assert first.attempts[1].requested("requeue") is None
    assert len(second.attempts) == 1
    nexa(workspace, "sweep", "stop", "latest")
    until(lambda: states(sweep), lambda seen: seen == ["stopped"] * 2)
    assert [len(run.attempts) for run in sweep.runs()] == [2, 1]


def test_a_launcher_killed_after_sbatch_finds_the_tasks_of_its_array_again(workspace, cluster):
    words = ("sweep", "echo.yaml", "--scheduler", "slurm", "training.max_steps=3,4", "slurm.options=[--hold]")
    launch_and_die(workspace, *words)
    sweep = newest(workspace)
    assert all(job_of(run.latest_attempt) is None for run in sweep.runs())
    assert states(sweep) == ["queued", "queued"]
    ids = [job_of(run.latest_attempt).job_id for run in sweep.runs()]
    assert [job.partition("_")[2] for job in ids] == ["0", "1"]
    cluster.command("scontrol", "release", ids[0].partition("_")[0])
    until(lambda: states(sweep), lambda seen: seen == ["completed"] * 2)


def test_runs_that_ask_for_different_machines_are_no_array(workspace):
    words = ("sweep", "echo.yaml", "--scheduler", "slurm", "cluster.num_nodes=1,2")
    outcome = nexa(workspace, *words, exit_code=2)
    assert "--nodes=1 and --nodes=2" in outcome.err
    assert not workspace.runs_dir.exists()


def test_a_refused_array_fails_every_run_with_the_words_of_slurm(workspace):
    words = ("sweep", "echo.yaml", "--scheduler", "slurm", "training.max_steps=1,2", "slurm.partition=absent")
    outcome = nexa(workspace, *words, exit_code=2)
    assert "nvalid partition" in outcome.err
    sweep = newest(workspace)
    assert states(sweep) == ["failed", "failed"]
    assert all("nvalid partition" in status.reason for status in run_statuses(sweep.runs()))
