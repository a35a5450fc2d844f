"""Real processes: the local scheduler, its supervisor and workers, and every way they can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nexa.errors import NexaError, RunError, UserError
from nexa.runs import actions
from nexa.runs.state import State, run_status
from nexa.worker.processes import processes_of


def test_a_run_completes_and_leaves_a_verified_checkpoint(runs, events_of):
    run = runs.launch(steps=5, save_every=2)
    status = runs.await_end(run)
    assert (status.state, status.step, status.exit_code) == (State.COMPLETED, 5, 0)
    assert status.metrics["sum"] == 15
    store = runs.store_client()
    names = [artifact.name for artifact in store.list(f"checkpoints/{run.run_id}")]
    assert [name[-8:] for name in names] == ["00000002", "00000004", "00000005"]
    assert all(store.verify(name) == [] for name in names)
    manifest = store.manifest(names[-1])
    assert manifest["config"] == run.plan["recipe"]
    assert manifest["metrics"] == {"loss": 2.0}
    assert manifest["lineage"]["dataset"]["hash"].startswith("sha256:")
    assert manifest["lineage"]["environment"]["packages"]["pytest"]
    assert events_of(run)[0].type == "start"
    assert events_of(run, "end")[0].state == "completed"
    assert "counts from 0 to 5" in (run.path / "logs" / "1-0.log").read_text()


def test_observers_see_every_event_as_written(runs, events_of, tmp_path):
    options = {"path": str(tmp_path / "seen.jsonl")}
    good = {"name": "good", "factory": "recording_observer:RecordingObserver", "options": options}
    bad = {"name": "bad", "factory": "recording_observer:NoSuch", "options": {}}
    run = runs.launch(steps=5, observers=[good, bad])
    assert runs.await_end(run).state is State.COMPLETED
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert [record["type"] for record in seen][:1] == ["start"]
    assert seen[-1]["type"] == "end"
    written = [vars(event) for event in events_of(run)]
    assert sorted(seen, key=json.dumps) == sorted(written, key=json.dumps)
    assert any("observer bad" in event.text for event in events_of(run, "message"))


def test_submitting_returns_at_once_and_the_run_has_its_own_session(runs):
    started = time.monotonic()
    run = runs.launch(steps=1000, step_seconds=0.05)
    assert time.monotonic() - started < 10
    supervisor = runs.pid(run, "supervisor")
    assert os.getsid(supervisor) not in (os.getsid(0), 0)
    os.kill(supervisor, signal.SIGHUP)
    runs.await_status(run, lambda status: (status.step or 0) > 1)
    assert run_status(run).state is State.RUNNING


def test_stop_saves_a_checkpoint_and_resume_continues(runs, events_of):
    run = runs.launch(steps=60, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) >= 3)
    actions.stop(run, reason="lunch")
    status = runs.await_end(run)
    assert (status.state, status.reason) == (State.STOPPED, "lunch")
    assert 3 <= status.step < 60
    with pytest.raises(RunError, match="not running: stopped"):
        actions.stop(run)
    attempt = actions.resume(run)
    assert attempt.number == 2
    status = runs.await_end(run)
    assert (status.state, status.step, status.metrics["sum"]) == (State.COMPLETED, 60, 60 * 61 // 2)
    assert "continuing from" in events_of(run, "message", attempt=2)[0].text
    assert events_of(run, "metrics", attempt=2)[0].step == events_of(run, "metrics")[-1].step + 1
    with pytest.raises(RunError, match="complete"):
        actions.resume(run)


def test_a_sigterm_to_the_supervisor_is_a_stop_request(runs):
    run = runs.launch(steps=1000, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) >= 1)
    os.kill(runs.pid(run, "supervisor"), signal.SIGTERM)
    status = runs.await_end(run)
    assert status.state is State.STOPPED
    assert "SIGTERM" in status.reason
    assert status.checkpoint


def test_a_killed_worker_is_a_failure_that_names_the_signal(runs):
    run = runs.launch(steps=1000, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) >= 1)
    os.kill(runs.pid(run), signal.SIGKILL)
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "SIGKILL" in status.reason
    assert "memory" in status.reason


def test_a_killed_supervisor_makes_the_worker_save_and_the_run_lost(runs):
    run = runs.launch(steps=1000, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) >= 2)
    os.kill(runs.pid(run, "supervisor"), signal.SIGKILL)
    runs.await_status(run, lambda status: status.state in (State.STOPPING, State.LOST), seconds=5)
    status = runs.await_end(run)
    assert status.state is State.LOST
    assert "supervisor was killed" in status.reason
    runs.await_no_processes(run)
    assert status.checkpoint is not None
    actions.resume(run)
    runs.await_status(run, lambda status: (status.step or 0) > 2)


def test_killing_both_is_lost(runs):
    run = runs.launch(steps=1000, step_seconds=0.05)
    worker, supervisor = runs.pid(run), runs.pid(run, "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    assert runs.await_end(run).state is State.LOST


def test_kill_ends_a_worker_that_hangs(runs):
    run = runs.launch(steps=5, hang_at=2)
    runs.await_status(run, lambda status: status.step == 1)
    status = actions.kill(run, reason="stuck")
    assert (status.state, status.reason) == (State.KILLED, "stuck")
    assert processes_of(run.path) == []


@pytest.mark.parametrize(
    ("meta", "reason", "code", "traceback"),
    [
        ({"fail_at": 2}, "rows.jsonl:7: not a JSON object", 2, False),
        ({"crash_at": 2}, "RuntimeError: broken", 1, True),
        ({"exit_at": 2}, "SystemExit", 1, True),
        ({"kill_at": 2}, "SIGKILL", 137, False),
    ],
)
def test_failures_are_told_with_their_reason(runs, monkeypatch, meta, reason, code, traceback):
    monkeypatch.setenv("CANARY_TOKEN", "canary-0123456789")
    run = runs.launch(steps=5, **meta)
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert reason in status.reason
    assert status.exit_code == code
    log = (run.path / "logs" / "1-0.log").read_text()
    assert ("Traceback" in log) is traceback
    written = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if b"canary-0123456789" in path.read_bytes()]


def test_two_resumes_at_once_have_one_winner(runs):
    run = runs.launch(steps=30, kill_at=2, step_seconds=0.1)
    runs.await_end(run)
    outcomes: list[object] = []

    def try_resume() -> None:
        try:
            outcomes.append(actions.resume(run).number)
        except RunError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=try_resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == [2]
    assert [attempt.number for attempt in run.attempts] == [1, 2]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(runs, events_of):
    run = runs.launch(steps=8, save_every=2, kill_at=7)
    runs.await_end(run)
    store = runs.store_client()
    newest = store.fetch(f"checkpoints/{run.run_id}/step-00000006") / "state.json"
    newest.parent.chmod(0o755)
    newest.chmod(0o644)
    newest.write_text(newest.read_text().replace("6", "7"))
    actions.resume(run)
    status = runs.await_end(run)
    assert (status.state, status.metrics["sum"]) == (State.COMPLETED, 36)
    texts = [event.text for event in events_of(run, "message", attempt=2)]
    assert "step-00000006 is damaged" in texts[0]
    assert "step-00000004" in texts[1]
    assert store.verify(f"checkpoints/{run.run_id}/step-00000006") == []


def test_a_second_supervisor_is_refused(runs):
    run = runs.launch(steps=1000, step_seconds=0.05)
    runs.pid(run)
    answer = subprocess.run(
        [sys.executable, "-m", "nexa.supervisor", "--detach", str(run.path), "1"], capture_output=True, text=True
    )
    assert answer.returncode != 0
    assert "already has a supervisor" in answer.stderr


def test_a_plan_of_another_format_is_refused(runs):
    run = runs.make(steps=1)
    plan = json.loads((run.path / "plan.json").read_text())
    (run.path / "plan.json").write_text(json.dumps({**plan, "schema": 99}))
    with pytest.raises(Exception, match="format 99"):
        runs.start(run)
    assert run_status(run).state is State.FAILED


@pytest.mark.parametrize("killed", ["workers/1", "agent"])
def test_several_workers_end_together(runs, killed):
    pytest.importorskip("torch")
    run = runs.launch(processes=2, steps=10_000, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) >= 1, seconds=120)
    pids = {runs.pid(run, "workers/0"), runs.pid(run, "workers/1")}
    if killed == "agent":
        agent = next(pid for pid in processes_of(run.path) if pid not in {*pids, runs.pid(run, "supervisor")})
        os.kill(agent, signal.SIGKILL)
    else:
        os.kill(runs.pid(run, killed), signal.SIGKILL)
    status = runs.await_end(run, seconds=90)
    assert status.state is State.FAILED
    assert "SIGKILL" in status.reason
    runs.await_no_processes(run)


def test_a_job_that_can_not_be_recorded_does_not_run_on(runs):
    run = runs.make(steps=10_000)
    attempt = run.create_attempt(1, resume_from=None, reason="launched")
    (run.path / "attempts" / "1" / "job.json").mkdir()
    with pytest.raises(NexaError, match=r"can't be recorded"):
        runs.submit(run, attempt)
    assert processes_of(run.path) == []
    assert run_status(run).state in (State.FAILED, State.STOPPED, State.KILLED)


@pytest.mark.parametrize(("lead", "state"), [(598, State.STOPPED), (1, State.COMPLETED)])
def test_a_time_limit_stops_the_run_with_a_checkpoint(runs, lead, state):
    run = runs.make(steps=40, step_seconds=0.1)
    plan = json.loads((run.path / "plan.json").read_text())
    plan["recipe"]["cluster"].update(time_limit="10m", stop_lead_seconds=lead)
    (run.path / "plan.json").write_text(json.dumps(plan))
    status = runs.await_end(runs.start(run))
    assert status.state is state
    if state is State.STOPPED:
        assert status.reason == "time limit of 10m"
        assert status.checkpoint is not None


def test_workers_that_do_not_stop_are_ended_at_the_time_limit(runs):
    run = runs.make(steps=40, hang_at=2)
    plan = json.loads((run.path / "plan.json").read_text())
    plan["recipe"]["cluster"].update(time_limit="3s", stop_lead_seconds=1)
    (run.path / "plan.json").write_text(json.dumps(plan))
    status = runs.await_end(runs.start(run))
    assert status.state is State.KILLED
    assert "time limit" in status.reason
    runs.await_no_processes(run)


def test_a_local_run_has_no_queue_to_go_back_to(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    with pytest.raises(UserError, match="has no queue") as caught:
        actions.requeue(run)
    assert "nexa resume" in caught.value.hint
    actions.kill(run)
