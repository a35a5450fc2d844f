"""The state of a run as a pure function of evidence, and the evidence as it lies on disk."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from nexa.files import write_json
from nexa.runs.state import ENDED, Evidence, State, judge, run_status
from nexa.scheduler import JobState, JobStatus
from nexa.worker.identity import Liveness, ProcessIdentity, uptime_seconds

ALIVE, GONE, REBOOTED, ELSEWHERE = Liveness.ALIVE, Liveness.GONE, Liveness.REBOOTED, Liveness.ELSEWHERE
STOP = {"reason": "lunch"}


def job(state: str, reason: str = "") -> JobStatus:
    return JobStatus(state=JobState(state), reason=reason)


CASES = [
    # before a supervisor
    (Evidence(launcher=ALIVE), "starting"),
    (Evidence(launcher=GONE), "lost"),
    (Evidence(launcher=REBOOTED), "lost"),
    (Evidence(launcher=ELSEWHERE, age_seconds=5), "starting"),
    (Evidence(launcher=ELSEWHERE, age_seconds=500), "lost"),
    (Evidence(submitted=True), "queued"),
    (Evidence(submitted=True, job=job("pending", "Priority"), age_seconds=90_000), "queued"),
    (Evidence(submitted=True, job=job("running")), "starting"),
    (Evidence(submitted=True, job=job("unknown"), age_seconds=90_000), "queued"),
    (Evidence(submitted=True, job=job("ended"), age_seconds=5), "queued"),
    (Evidence(submitted=True, job=job("ended"), age_seconds=50), "lost"),
    (Evidence(submitted=True, age_seconds=3600), "lost?"),
    # the supervisor lives here
    (Evidence(supervisor=ALIVE), "starting"),
    (Evidence(supervisor=ALIVE, training=True, silence_seconds=1, workers=[ALIVE]), "running"),
    (Evidence(supervisor=ALIVE, training=True, silence_seconds=61, workers=[ALIVE]), "stale"),
    (Evidence(supervisor=ALIVE, training=True, silence_seconds=61, workers=[GONE]), "running"),
    (Evidence(supervisor=ALIVE, training=True, silence_seconds=1, stop=STOP), "stopping"),
    (Evidence(supervisor=ALIVE, training=True, silence_seconds=1, kill=STOP), "stopping"),
    # the supervisor is gone
    (Evidence(supervisor=GONE, workers=[ALIVE], training=True, silence_seconds=1), "stopping"),
    (Evidence(supervisor=GONE, workers=[GONE], training=True, silence_seconds=1), "lost"),
    (Evidence(supervisor=GONE, workers=[GONE], result={"state": "completed"}), "completed"),
    (Evidence(supervisor=GONE, workers=[GONE], result={"state": "stopped"}), "lost"),
    (Evidence(supervisor=GONE, workers=[GONE], result={"state": "stopped"}, stop=STOP), "stopped"),
    (Evidence(supervisor=GONE, workers=[GONE], error={"message": "bad row"}), "failed"),
    (Evidence(supervisor=REBOOTED, workers=[REBOOTED], training=True, silence_seconds=1), "lost"),
    (Evidence(supervisor=REBOOTED, result={"state": "completed"}), "completed"),
    # another machine
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=5), "running"),
    (Evidence(supervisor=ELSEWHERE, age_seconds=5), "starting"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=5, stop=STOP), "stopping"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=61), "stale"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=601), "lost?"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=601, job=job("running")), "stale"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=601, job=job("unknown")), "lost?"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=10, job=job("ended")), "running"),
    (Evidence(supervisor=ELSEWHERE, training=True, silence_seconds=31, job=job("ended", "TIMEOUT")), "lost"),
    (Evidence(supervisor=ELSEWHERE, silence_seconds=31, job=job("ended"), result={"state": "stopped"}), "stopped"),
    # the end is on record
    (Evidence(exit={"state": "completed"}), "completed"),
    (Evidence(exit={"state": "failed", "reason": "x"}), "failed"),
    (Evidence(exit={"state": "killed"}), "killed"),
    (Evidence(exit={"state": "of another version"}), "failed"),
    (Evidence(exit={}), "failed"),
]


@pytest.mark.parametrize(("evidence", "state"), CASES, ids=[f"{i}-{state}" for i, (_, state) in enumerate(CASES)])
def test_the_state_follows_from_the_evidence(evidence, state):
    judged, reason = judge(evidence)
    assert judged == state
    assert reason or judged in ("running", "queued", "completed", "stopped", "killed")


def test_an_exit_record_outweighs_everything_else():
    for evidence, _ in CASES:
        assert judge(replace(evidence, exit={"state": "stopped", "reason": "r"})) == (State.STOPPED, "r")


def test_nothing_but_a_record_is_called_failed():
    """Silence and disappearance end as lost, stale or lost?; a failure has someone who recorded it."""
    for evidence, _ in CASES:
        if evidence.exit is None and evidence.error is None:
            assert judge(evidence)[0] is not State.FAILED


def test_a_running_state_needs_a_sign_of_life():
    for evidence, _ in CASES:
        if judge(evidence)[0] is State.RUNNING:
            assert evidence.supervisor is ALIVE or evidence.silence_seconds < 60


@pytest.fixture
def attempt(runs):
    run = runs.make(steps=1)
    run.create_attempt(1, resume_from=None, reason="launched")
    return run, run.latest_attempt


def _supervisor(attempt, **changes) -> None:
    write_json(attempt.path / "supervisor.json", {**ProcessIdentity.current().document(), **changes})


def test_a_reused_pid_is_not_the_supervisor(attempt):
    run, folder = attempt
    _supervisor(folder, start_time="1")
    assert run_status(run).state is State.LOST


def test_a_rebooted_machine_is_told_from_another_of_the_same_name(attempt):
    run, folder = attempt
    _supervisor(folder, boot_id="another boot")
    assert run_status(run).reason == "the machine was rebooted"
    folder.events_path.write_text('{"ts":1,"type":"start"}\n')
    assert run_status(run).state is State.RUNNING
    before_boot = time.time() - uptime_seconds() - 60
    os.utime(folder.events_path, (before_boot, before_boot))
    assert (run_status(run).state, run_status(run).reason) == (State.LOST, "the machine was rebooted")


def test_another_machine_goes_stale_and_then_lost(attempt):
    run, folder = attempt
    _supervisor(folder, host="elsewhere")
    folder.events_path.write_text('{"ts":1,"type":"progress","step":3,"total_steps":9}\n')
    now = time.time()
    states = [run_status(run, now=now + seconds).state for seconds in (1, 90, 900)]
    assert states == [State.RUNNING, State.STALE, State.PROBABLY_LOST]
    assert (run_status(run).step, run_status(run).total_steps) == (3, 9)


def test_an_unfinished_launch_is_lost(runs, attempt):
    run, folder = attempt
    assert run_status(run).state is State.STARTING
    document = folder.read("attempt")
    write_json(folder.path / "attempt.json", {**document, "launcher": {**document["launcher"], "start_time": "1"}})
    assert run_status(run).state is State.LOST
    assert run_status(runs.make()).state is State.LOST


def test_ended_states_are_final():
    assert ENDED.isdisjoint({State.RUNNING, State.STALE, State.PROBABLY_LOST, State.STOPPING, State.QUEUED})


@pytest.mark.parametrize("supervisor", [Liveness.GONE, Liveness.ELSEWHERE, Liveness.REBOOTED])
def test_a_job_back_in_its_queue_is_queued_whatever_became_of_its_supervisor(supervisor):
    job = JobStatus(state=JobState.PENDING, reason="it waits for nodes to become free")
    assert judge(Evidence(submitted=True, supervisor=supervisor, job=job)) == (State.QUEUED, job.reason)


def test_a_job_that_runs_again_is_starting_and_an_unknown_one_is_never_failed():
    running = Evidence(submitted=True, supervisor=Liveness.GONE, job=JobStatus(state=JobState.RUNNING))
    assert judge(running)[0] is State.STARTING
    unknown = JobStatus(state=JobState.UNKNOWN, reason="Slurm can't be asked since noon")
    state, reason = judge(Evidence(submitted=True, supervisor=Liveness.GONE, job=unknown))
    assert state is State.STALE
    assert "since noon" in reason


def test_a_job_that_its_scheduler_saw_fail_is_failed_at_once():
    job = JobStatus(state=JobState.ENDED, reason="there is no such Python on its node", failed=True)
    assert judge(Evidence(submitted=True, job=job)) == (State.FAILED, job.reason)
