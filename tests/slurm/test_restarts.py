"""What ends or moves a job: time limits, preemption, requeues, signals, lost nodes, an absent controller."""

from __future__ import annotations

import os
import signal
import time

import pytest

from nexa.runs.actions import requeue
from nexa.runs.state import State, run_status
from nexa.scheduler import UncertainSubmissionError
from nexa.worker.identity import ProcessIdentity
from nexa_slurm.restarts import makes_no_progress


def await_attempt(runs, run, number):
    """Wait until the attempt's worker has done a step."""
    runs.await_step(run, 1, attempt=number)


def assert_exact(runs, run, steps):
    """Every attempt went on where the checkpoint before it stopped, and the sum is that of one run."""
    for attempt in run.attempts[1:]:
        begin = attempt.read("attempt")["resume_from"]
        recorded = runs.metrics(run, attempt.number)
        if recorded:
            assert recorded[0]["step"] == int(begin.rpartition("-")[2]) + 1
    assert runs.metrics(run, run.attempts[-1].number)[-1]["values"]["sum"] == steps * (steps + 1) / 2


def test_a_higher_partition_takes_the_node_and_the_run_comes_back(runs):
    run = runs.launch(steps=150, step_seconds=0.05, slurm={"exclusive": True, "options": ["--nodelist=n1"]})
    runs.await_step(run, 3)
    runs.slurm("sbatch", "--partition=high", "--exclusive", "--nodelist=n1", "--output=/dev/null", "--wrap=sleep 2")
    assert runs.await_end(run, seconds=120).state is State.COMPLETED
    states = runs.ends(run)
    assert [state for state, _ in states] == ["stopped", "completed"]
    assert "higher priority" in states[0][1]
    assert_exact(runs, run, 150)


def test_scontrol_requeue_saves_and_starts_again(runs):
    run = runs.launch(steps=80, step_seconds=0.05)
    runs.await_step(run, 3)
    runs.slurm("scontrol", "requeue", runs.job_id(run))
    assert runs.await_end(run).state is State.COMPLETED
    states = runs.ends(run)
    assert [state for state, _ in states] == ["stopped", "completed"]
    assert "Slurm put the job back" in states[0][1]
    assert_exact(runs, run, 80)


def test_a_job_that_is_requeued_and_held_is_released(runs):
    run = runs.launch(steps=80, step_seconds=0.05)
    runs.await_step(run, 3)
    runs.slurm("scontrol", "requeuehold", runs.job_id(run))
    held = runs.await_status(run, lambda status: "held" in (status.reason or ""))
    assert held.state is State.QUEUED
    assert "nexa requeue" in held.reason
    requeue(run)
    assert runs.await_end(run).state is State.COMPLETED
    assert [state for state, _ in runs.ends(run)] == ["stopped", "completed"]
    assert_exact(runs, run, 80)


def test_scancel_stops_the_run_with_a_checkpoint(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    runs.await_step(run, 3)
    runs.slurm("scancel", runs.job_id(run))
    status = runs.await_end(run)
    assert status.state is State.STOPPED
    assert "scancel" in status.reason
    assert status.checkpoint is not None
    assert len(run.attempts) == 1


def test_scancel_signal_reaches_only_its_own_run(runs):
    other = runs.launch("other", steps=10_000, step_seconds=0.05)
    signalled = {
        runs.launch("tasks", steps=80, step_seconds=0.05): ["--signal=USR1"],
        runs.launch("script", steps=80, step_seconds=0.05): ["--batch", "--signal=USR1"],
    }
    for run, options in signalled.items():
        runs.await_step(run, 3)
        runs.slurm("scancel", *options, runs.job_id(run))
    for run in signalled:
        assert runs.await_end(run).state is State.COMPLETED
        assert len(run.attempts) == 2
        assert_exact(runs, run, 80)
    assert run_status(other).state is State.RUNNING
    assert len(other.attempts) == 1


def test_sigterm_to_the_workers_stops_the_run_for_good(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    runs.await_step(run, 3)
    runs.slurm("scancel", "--signal=TERM", runs.job_id(run))
    status = runs.await_end(run)
    assert status.state is State.STOPPED
    assert status.checkpoint is not None
    assert len(run.attempts) == 1


def test_a_killed_node_is_replaced(runs):
    run = runs.launch(steps=100, step_seconds=0.05, save_every=10)
    runs.await_step(run, 15)
    node = runs.slurm("squeue", "--noheader", "--format=%N", f"--jobs={runs.job_id(run)}").strip()
    runs.cluster.kill_node(node)
    try:
        assert runs.await_end(run, seconds=120).state is State.COMPLETED
    finally:
        runs.cluster.start_node(node)
    states = runs.ends(run)
    assert states[0][0] == "lost"
    assert states[-1][0] == "completed"
    assert_exact(runs, run, 100)


@pytest.mark.soak
def test_a_killed_slurmd_does_not_make_two_of_one_run(runs):
    run = runs.launch(steps=300, step_seconds=0.1, save_every=10)
    runs.await_step(run, 5)
    node = runs.slurm("squeue", "--noheader", "--format=%N", f"--jobs={runs.job_id(run)}").strip()
    runs.cluster.kill_slurmd(node)
    try:
        await_attempt(runs, run, 2)
        # The first node's processes live on, out of Slurm's sight, until they hear of the second attempt.
        superseded = run.attempts[0]
        deadline = time.monotonic() + 30
        while superseded.read("result") is None:
            assert time.monotonic() < deadline, runs.evidence(run)
            time.sleep(0.1)
        last = runs.metrics(run, 1)[-1]["step"]
        assert runs.await_end(run, seconds=120).state is State.COMPLETED
        assert runs.metrics(run, 1)[-1]["step"] == last
    finally:
        runs.cluster.start_node(node)
    assert [state for state, _ in runs.ends(run)] in (["lost", "completed"], ["stopped", "completed"])
    assert_exact(runs, run, 300)


def test_the_restart_budget_is_kept(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05, cluster={"max_restarts": 1})
    for number in (1, 2):
        await_attempt(runs, run, number)
        runs.slurm("scancel", "--batch", "--signal=USR1", runs.job_id(run))
        runs.await_status(run, lambda status, number=number: status.attempt > number or not status.active)
    status = runs.await_end(run)
    assert status.state is State.STOPPED
    assert "max_restarts=1 is used up" in status.reason
    assert len(run.attempts) == 2


@pytest.mark.parametrize("checkpoint", [None, "checkpoints/count/step-00000001"])
def test_two_attempts_without_a_step_are_no_progress(runs, monkeypatch, checkpoint):
    run = runs.make(steps=3)
    monkeypatch.setattr("nexa.runs.actions.newest_checkpoint", lambda run: checkpoint)
    for number, begin in ((1, None), (2, checkpoint), (3, checkpoint)):
        run.create_attempt(number, resume_from=begin, reason="a test")
    assert not makes_no_progress(run, run.attempts[0])
    assert makes_no_progress(run, run.attempts[1]) == (checkpoint is None)
    assert makes_no_progress(run, run.attempts[2])
    monkeypatch.setattr("nexa.runs.actions.newest_checkpoint", lambda run: "checkpoints/count/step-00000002")
    assert not makes_no_progress(run, run.attempts[2])


@pytest.mark.soak
def test_a_time_limit_that_no_checkpoint_fits_in_says_what_to_raise(runs):
    run = runs.launch(steps=10, step_seconds=600.0, cluster={"time_limit": "1m", "stop_lead_seconds": 20})
    status = runs.await_end(run, seconds=240)
    assert status.state is State.LOST
    assert "longer than cluster.stop_lead_seconds" in status.reason
    assert len(run.attempts) == 1


@pytest.mark.soak
def test_a_time_limit_is_announced_and_survived(runs):
    limits = {"time_limit": "1m", "stop_lead_seconds": 20}
    run = runs.launch(steps=70, step_seconds=1.0, cluster=limits)
    assert runs.await_end(run, seconds=280).state is State.COMPLETED
    ends = runs.ends(run)
    assert len(ends) >= 2
    assert all("end of the job's time" in reason for state, reason in ends[:-1])
    assert_exact(runs, run, 70)


def test_an_absent_controller_is_unknown_and_never_a_failure(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    waiting = runs.launch("waiting", slurm={"options": ["--hold"]}, steps=3)
    runs.await_step(run, 3)
    runs.await_status(waiting, lambda status: "held" in status.reason)
    runs.cluster.stop_controller()
    try:
        seen = runs.await_status(waiting, lambda status: "can't be asked since" in status.reason)
        assert seen.state is State.QUEUED
        assert run_status(run).state is State.RUNNING
    finally:
        runs.cluster.start_controller()
    seen = runs.await_status(waiting, lambda status: "held" in status.reason)
    assert seen.state is State.QUEUED
    assert run_status(run).state is State.RUNNING


@pytest.mark.soak
def test_a_minute_without_controller_loses_and_doubles_nothing(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    ending = runs.launch("ending", steps=300, step_seconds=0.05)
    waiting = runs.launch("waiting", slurm={"options": ["--hold"]}, steps=3)
    runs.await_step(run, 3)
    runs.await_step(ending, 3)
    runs.await_status(waiting, lambda status: "held" in status.reason)
    late = runs.make("late", steps=3)
    runs.cluster.stop_controller()
    away_until = time.monotonic() + 60
    try:
        with pytest.raises(UncertainSubmissionError, match="did not say whether"):
            runs.start(late)
        while time.monotonic() < away_until:
            assert run_status(run).state is State.RUNNING
            assert run_status(ending).state in (State.RUNNING, State.COMPLETED)
            assert run_status(waiting).state is State.QUEUED
            assert run_status(late).state is not State.FAILED
            time.sleep(0.5)
        assert run_status(ending).state is State.COMPLETED
        assert "can't be asked since" in run_status(waiting).reason
        begun = len(runs.metrics(run, 1))
    finally:
        runs.cluster.start_controller()
    runs.await_status(waiting, lambda status: "held" in status.reason)
    assert len(runs.metrics(run, 1)) >= begun
    assert run_status(run).state is State.RUNNING
    jobs = runs.slurm("squeue", "--noheader", "--states=all", "--format=%j").split()
    assert max(jobs.count(each.run_id) for each in (run, ending, waiting, late)) == 1
    assert [len(each.attempts) for each in (run, ending, waiting, late)] == [1, 1, 1, 1]


def test_a_requeue_waits_for_a_controller_that_is_away(runs):
    run = runs.launch(steps=120, step_seconds=0.05)
    runs.await_step(run, 3)
    runs.cluster.stop_controller()
    try:
        supervisor = ProcessIdentity.from_document(run.attempts[0].read("supervisor"))
        os.kill(supervisor.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while len(run.attempts) < 2:
            assert time.monotonic() < deadline, "no second attempt was prepared"
            time.sleep(0.1)
    finally:
        runs.cluster.start_controller()
    assert runs.await_end(run, seconds=120).state is State.COMPLETED
    assert [state for state, _ in runs.ends(run)] == ["stopped", "completed"]
    assert_exact(runs, run, 120)
