"""A run on Slurm lives as a local one does: it queues, trains, stops, is killed and resumes."""

from __future__ import annotations

import pytest

from nexa.runs.actions import kill, requeue, resume, stop
from nexa.runs.state import State, run_status


def test_a_run_completes_and_its_job_is_recorded_once(runs):
    run = runs.launch(steps=5)
    status = runs.await_end(run)
    assert status.state is State.COMPLETED
    assert status.step == 5
    job = run.attempts[0].read("job")
    assert job["scheduler"] == "slurm"
    assert (run.path / "logs" / "1-supervisor.log").read_text().count("starting workers") == 1


def test_stop_saves_and_resume_goes_on_in_a_new_job(runs):
    run = runs.launch(steps=40, step_seconds=0.05)
    first = runs.job_id(run)
    runs.await_step(run, 5)
    stop(run)
    stopped = runs.await_end(run)
    assert stopped.state is State.STOPPED
    assert stopped.reason == "stopped by the user"
    assert stopped.checkpoint is not None
    resume(run)
    assert runs.await_end(run).state is State.COMPLETED
    assert runs.job_id(run) != first
    assert runs.metrics(run, 2)[0]["step"] == stopped.step + 1
    assert runs.metrics(run, 2)[-1]["values"]["sum"] == 40 * 41 / 2


def test_kill_ends_the_job(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    runs.await_step(run, 3)
    assert kill(run).state is State.KILLED
    assert runs.slurm("squeue", "--noheader", "--states=running", f"--name={run.run_id}") == ""


def test_a_waiting_run_is_stopped_without_ever_starting(runs):
    run = runs.launch(slurm={"options": ["--hold"]}, steps=5)
    waiting = runs.await_status(run, lambda status: "held" in status.reason)
    assert waiting.state is State.QUEUED
    assert "nexa requeue" in waiting.reason
    stop(run)
    assert runs.await_end(run).state is State.STOPPED
    assert not (run.path / "logs" / "1-supervisor.log").exists()


def test_a_held_run_is_released_by_requeue(runs):
    run = runs.launch(slurm={"options": ["--hold"]}, steps=3)
    runs.await_status(run, lambda status: "held" in status.reason)
    requeue(run)
    assert runs.await_end(run).state is State.COMPLETED


def test_requeue_saves_and_starts_again_as_a_new_attempt_of_the_same_job(runs):
    run = runs.launch(steps=60, step_seconds=0.05)
    job = runs.job_id(run)
    runs.await_step(run, 5)
    requeue(run)
    assert runs.await_end(run).state is State.COMPLETED
    assert [state for state, _ in runs.ends(run)] == ["stopped", "completed"]
    assert "requeued by the user" in runs.ends(run)[0][1]
    assert runs.job_id(run) == job
    done = runs.metrics(run, 1)[-1]["step"]
    assert runs.metrics(run, 2)[0]["step"] == done + 1
    assert runs.metrics(run, 2)[-1]["values"]["sum"] == 60 * 61 / 2


def test_a_stop_during_a_requeue_wins(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    runs.await_step(run, 3)
    requeue(run)
    stop(run)
    status = runs.await_end(run)
    assert status.state is State.STOPPED
    runs.cluster.wait_idle()
    assert not run_status(run).active


@pytest.mark.parametrize(("misbehaviour", "words"), [("crash_at", "RuntimeError: broken"), ("kill_at", "SIGKILL")])
def test_a_failing_worker_fails_the_run_with_its_reason(runs, misbehaviour, words):
    run = runs.launch(steps=5, **{misbehaviour: 2})
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert words in status.reason
    assert len(run.attempts) == 1
