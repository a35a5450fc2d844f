"""The state of a run: a pure function of what lies on disk and what the scheduler says.

`gather` reads the evidence (cheaply: small files and the tail of one event file), `judge` decides
and touches nothing. A run is called running only while something shows that it is; silence becomes
`stale`, then `lost?`, and is never called a failure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from nexa.events import PREPARATION
from nexa.files import read_json
from nexa.runs.jobs import ask_schedulers, find_jobs, record_job
from nexa.runs.store import AttemptFolder, Run, queue_path
from nexa.scheduler import Attempt, JobState, JobStatus
from nexa.worker.identity import Liveness, ProcessIdentity, uptime_seconds

STALE_AFTER_SECONDS = 60.0
PROBABLY_LOST_AFTER_SECONDS = 600.0
# Files of other machines show up late on some shared file systems.
_SHARED_FILE_DELAY_SECONDS = 30.0


# Enough for the newest metrics; evaluations and checkpoints are rarer and lie further back.
_SHORT_TAIL_BYTES = 4096
WHOLE_TAIL_BYTES = 1 << 18


class State(StrEnum):
    """How a run is. QUEUED to STOPPING, STALE and PROBABLY_LOST may still change by themselves."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    KILLED = "killed"
    LOST = "lost"
    STALE = "stale"
    PROBABLY_LOST = "lost?"


ENDED = frozenset({State.COMPLETED, State.STOPPED, State.FAILED, State.KILLED, State.LOST})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the state of an attempt is judged by.

    exit, result, error, stop: contents of the attempt's files, None when absent. launcher,
    supervisor: liveness of these processes, None when they left no trace. workers: liveness of each
    worker that started. job: the scheduler's answer, None when it was not or can't be asked.
    submitted: whether the scheduler took the job. silence_seconds: since the last event, None before
    the first; age_seconds: since the attempt was made. training: whether rank 0 has begun work.
    sweep: id of the sweep whose queue is to start the attempt, "" without one; queue: that queue's
    liveness, None before it began.
    """

    exit: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    stop: Mapping[str, Any] | None = None
    kill: Mapping[str, Any] | None = None
    submitted: bool = False
    launcher: Liveness | None = None
    supervisor: Liveness | None = None
    workers: Sequence[Liveness] = ()
    job: JobStatus | None = None
    silence_seconds: float | None = None
    age_seconds: float = 0.0
    training: bool = False
    sweep: str = ""
    queue: Liveness | None = None


def judge(evidence: Evidence) -> tuple[State, str]:
    """Return the state and, in words, why; pure."""
    if evidence.exit is not None:
        return _ended(evidence.exit)
    if evidence.supervisor is Liveness.ALIVE:
        return _supervised(evidence)
    if evidence.supervisor is not None and evidence.job is not None and evidence.job.state is JobState.PENDING:
        return State.QUEUED, evidence.job.reason or "put back into the queue by its scheduler"
    if evidence.supervisor in (Liveness.GONE, Liveness.REBOOTED):
        return _abandoned(evidence)
    if evidence.supervisor is Liveness.ELSEWHERE:
        return _remote(evidence)
    return _unstarted(evidence)


def _ended(exit: Mapping[str, Any]) -> tuple[State, str]:
    try:
        return State(exit["state"]), str(exit.get("reason") or "")
    except (KeyError, ValueError):
        return State.FAILED, "its exit record is damaged"


def _supervised(evidence: Evidence) -> tuple[State, str]:
    """The supervisor lives on this machine."""
    if evidence.kill is not None:
        return State.STOPPING, "being killed"
    if evidence.stop is not None:
        return State.STOPPING, f"saving a checkpoint: {evidence.stop.get('reason', 'stop requested')}"
    if evidence.silence_seconds is None or not evidence.training:
        return State.STARTING, "the workers are starting"
    if evidence.silence_seconds > STALE_AFTER_SECONDS and Liveness.ALIVE in evidence.workers:
        return State.STALE, f"its processes exist but gave no sign of life for {_seconds(evidence.silence_seconds)}"
    return State.RUNNING, ""


def _abandoned(evidence: Evidence) -> tuple[State, str]:
    """The supervisor ended on this machine without a record."""
    if evidence.result is not None and evidence.result.get("state") == "completed":
        return State.COMPLETED, "the supervisor was killed after the last step"
    if evidence.supervisor is Liveness.REBOOTED:
        return State.LOST, "the machine was rebooted"
    if evidence.job is not None and evidence.job.state is JobState.RUNNING:
        return State.STARTING, evidence.job.reason or "its job was started again"
    if evidence.job is not None and evidence.job.state is JobState.UNKNOWN:
        return State.STALE, f"its supervisor is gone; {evidence.job.reason}"
    if Liveness.ALIVE in evidence.workers:
        return State.STOPPING, "its supervisor was killed; the workers are saving a checkpoint"
    if evidence.result is not None and evidence.stop is not None:
        return State.STOPPED, str(evidence.stop.get("reason", ""))
    if evidence.result is not None:
        how = "saved a checkpoint and ended" if evidence.result.get("checkpoint") else "ended without a checkpoint"
        return State.LOST, f"its supervisor was killed; the workers {how}"
    if evidence.error is not None:
        return State.FAILED, str(evidence.error.get("message", ""))
    if evidence.job is not None and evidence.job.failed:
        return State.LOST, evidence.job.reason
    return State.LOST, "its supervisor and workers were killed"


def _remote(evidence: Evidence) -> tuple[State, str]:
    """The run belongs to another machine: judged by its events and by the scheduler."""
    silence = evidence.age_seconds if evidence.silence_seconds is None else evidence.silence_seconds
    job = evidence.job
    if job is not None and job.state is JobState.ENDED and (job.failed or silence > _SHARED_FILE_DELAY_SECONDS):
        if evidence.result is not None:
            return State(evidence.result["state"]), str(evidence.result.get("reason", ""))
        return State.LOST, job.reason or "its job ended without a record"
    vouched = job is not None and job.state is JobState.RUNNING
    if silence > PROBABLY_LOST_AFTER_SECONDS and not vouched:
        return State.PROBABLY_LOST, f"no sign of life from its machine for {_seconds(silence)}"
    if silence > STALE_AFTER_SECONDS:
        return State.STALE, f"no sign of life from its machine for {_seconds(silence)}"
    if evidence.stop is not None:
        return State.STOPPING, str(evidence.stop.get("reason", "stop requested"))
    return (State.RUNNING, "") if evidence.training else (State.STARTING, "the workers are starting")


def _unstarted(evidence: Evidence) -> tuple[State, str]:
    """No supervisor has started yet."""
    job = evidence.job
    if job is not None and job.state is JobState.PENDING:
        return State.QUEUED, job.reason
    if job is not None and job.state is JobState.RUNNING:
        return State.STARTING, job.reason or "its supervisor is starting"
    if job is not None and job.state is JobState.ENDED and job.failed:
        return State.FAILED, job.reason
    if job is not None and job.state is JobState.ENDED and evidence.age_seconds > _SHARED_FILE_DELAY_SECONDS:
        return State.LOST, job.reason or "its job ended before a supervisor started"
    if evidence.submitted:
        if evidence.age_seconds > PROBABLY_LOST_AFTER_SECONDS and job is None:
            return State.PROBABLY_LOST, f"no supervisor has started in {_seconds(evidence.age_seconds)}"
        return State.QUEUED, job.reason if job else ""
    if evidence.queue in (Liveness.ALIVE, Liveness.ELSEWHERE):
        return State.QUEUED, f"waits for its turn in sweep {evidence.sweep}"
    if evidence.launcher is Liveness.ALIVE and evidence.queue is None:
        return State.STARTING, "being handed to its scheduler"
    if evidence.sweep:
        why = "the queue of its sweep ended before its turn"
        return State.LOST, f"{why}; start it again: nexa sweep resume {evidence.sweep}"
    if evidence.launcher is Liveness.ELSEWHERE and evidence.age_seconds <= STALE_AFTER_SECONDS:
        return State.STARTING, "being handed to its scheduler"
    return State.LOST, "the launching command ended before its scheduler had the job"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run's state with the figures that listings show.

    reason: why it is in this state, in words; may be empty. step, total_steps: None before training.
    metrics: newest values by name, of training and evaluation. times are unix seconds; ended_at is
    None while the run may go on. exit_code: of the workers, None unless known.
    """

    state: State
    reason: str = ""
    attempt: int | None = None
    phase: str | None = None
    step: int | None = None
    total_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None

    @property
    def active(self) -> bool:
        """Whether the run may still be going on."""
        return self.state not in ENDED


def run_status(run: Run, *, now: float | None = None) -> RunStatus:
    """The status of one run; asks its scheduler only when the disk does not settle it."""
    return run_statuses([run], now=now, tail_bytes=WHOLE_TAIL_BYTES)[0]


def run_statuses(
    runs: Sequence[Run], *, now: float | None = None, tail_bytes: int = _SHORT_TAIL_BYTES
) -> list[RunStatus]:
    """The status of each run, in order; every scheduler is asked once for all its runs.

    tail_bytes: how far back in its events to look for a run's figures; more is read only where that
    shows no step.

    A run whose documents are damaged is FAILED with the damage as its reason; this never raises for one.
    """
    moment = time.time() if now is None else now
    attempts = [run.latest_attempt for run in runs]
    evidence = [gather(attempt, now=moment) if attempt else None for attempt in attempts]
    evidence = _adopt_jobs(runs, attempts, evidence)
    jobs = ask_schedulers([a if e and _needs_scheduler(e) else None for a, e in zip(attempts, evidence, strict=True)])
    statuses = []
    for run, attempt, seen, job in zip(runs, attempts, evidence, jobs, strict=True):
        if attempt is None or seen is None:
            reason = "the launching command ended before its first attempt"
            statuses.append(RunStatus(state=State.LOST, reason=reason, created_at=run.document.get("created_at")))
        else:
            statuses.append(_describe(run, attempt, judge(_with_job(seen, job)), tail_bytes))
    return statuses


def gather(attempt: AttemptFolder, *, now: float) -> Evidence:
    """Read the evidence on an attempt from its files; does not ask the scheduler."""
    end = attempt.read("exit")
    if end is not None:
        return Evidence(exit=end)
    document = attempt.read("attempt") or {}
    submitted = (attempt.path / "job.json").exists()
    sweep, queue = ("", None) if submitted else _queue(attempt)
    created = float(document.get("created_at", now))
    try:
        silence = max(0.0, now - attempt.events_path.stat().st_mtime)
    except OSError:
        silence = None
    return Evidence(
        result=attempt.read("result"),
        error=attempt.read("error"),
        stop=attempt.requested("stop"),
        kill=attempt.requested("kill"),
        submitted=submitted,
        launcher=_liveness(ProcessIdentity.from_document(document.get("launcher") or {}), silence),
        supervisor=_liveness(attempt.identity("supervisor"), silence),
        workers=[identity.liveness() for identity in attempt.workers().values()],
        silence_seconds=silence,
        age_seconds=max(0.0, now - created),
        training=silence is not None,
        sweep=sweep,
        queue=queue,
    )


def _queue(attempt: AttemptFolder) -> tuple[str, Liveness | None]:
    """Sweep whose queue process is to start an attempt, and that process's liveness, None before it."""
    queued = attempt.read("queued")
    if queued is None or "array" in queued:
        return "", None
    sweep = str(queued["sweep"])
    process = ProcessIdentity.from_document(read_json(queue_path(attempt.run_dir.parent, sweep)) or {})
    return sweep, process.liveness() if process else None


def _liveness(identity: ProcessIdentity | None, silence_seconds: float | None) -> Liveness | None:
    """Liveness of a process, None without one.

    Two machines may have the same host name: another boot that wrote events after this machine's
    own boot is another machine.
    """
    if identity is None:
        return None
    liveness = identity.liveness()
    uptime = uptime_seconds()
    heard = silence_seconds is not None and uptime is not None and silence_seconds < uptime
    if liveness is Liveness.REBOOTED and heard:
        return Liveness.ELSEWHERE
    return liveness


def _needs_scheduler(evidence: Evidence) -> bool:
    return evidence.exit is None and evidence.submitted and evidence.supervisor is not Liveness.ALIVE


def _adopt_jobs(
    runs: Sequence[Run], attempts: Sequence[AttemptFolder | None], evidence: Sequence[Evidence | None]
) -> list[Evidence | None]:
    """Look for jobs whose submitting process was killed before it recorded them, and record them."""
    answers = list(evidence)
    orphans: dict[str, list[tuple[int, Attempt]]] = {}
    for index, (run, attempt, seen) in enumerate(zip(runs, attempts, evidence, strict=True)):
        if attempt is not None and seen is not None and _may_have_job(seen):
            made = Attempt(run_id=run.run_id, run_dir=run.path, number=attempt.number)
            orphans.setdefault(run.document["scheduler"], []).append((index, made))
    for name, found in orphans.items():
        jobs = find_jobs(name, [attempt for _, attempt in found])
        for (index, made), job in zip(found, jobs, strict=True):
            seen = answers[index]
            if job is not None and seen is not None:
                record_job(made, job)
                answers[index] = replace(seen, submitted=True)
    return answers


def _may_have_job(evidence: Evidence) -> bool:
    """Whether the attempt has no recorded job, and nobody is left who would record one."""
    unrecorded = evidence.exit is None and not evidence.submitted and evidence.supervisor is None
    return unrecorded and evidence.launcher is not Liveness.ALIVE


def _with_job(evidence: Evidence, job: JobStatus | None) -> Evidence:
    return evidence if job is None else replace(evidence, job=job)


def _describe(run: Run, attempt: AttemptFolder, judged: tuple[State, str], tail_bytes: int) -> RunStatus:
    """Add the figures of the newest events to a judged state."""
    state, reason = judged
    end = attempt.read("exit") or {}
    figures = _Figures()
    for folder in (attempt, *reversed(run.attempts[:-1])):
        figures.read(folder, tail_bytes)
        if figures.step is None:
            figures.read(folder, WHOLE_TAIL_BYTES)
        if figures.step is not None:
            break
    result = attempt.read("result") or {}
    return RunStatus(
        state=state,
        reason=reason,
        attempt=attempt.number,
        phase=figures.phase if state not in ENDED else None,
        step=result.get("step", figures.step),
        total_steps=figures.total_steps,
        metrics={**figures.metrics, **{k: v for k, v in result.get("metrics", {}).items() if v is not None}},
        checkpoint=result.get("checkpoint") or figures.checkpoint,
        created_at=run.document.get("created_at"),
        started_at=(attempt.read("attempt") or {}).get("created_at"),
        ended_at=end.get("ended_at") or (figures.last_ts if state in ENDED else None),
        exit_code=end.get("exit_code"),
    )


class _Figures:
    """What the tail of an event file says about progress."""

    def __init__(self) -> None:
        self.phase: str | None = None
        self.step: int | None = None
        self.total_steps: int | None = None
        self.checkpoint: str | None = None
        self.last_ts: float | None = None
        self.metrics: dict[str, float] = {}

    def read(self, attempt: AttemptFolder, tail_bytes: int) -> None:
        """Take from an attempt's newest records what no later attempt has told."""
        from nexa.events.reader import read_tail

        for record in reversed(read_tail(attempt.events_path, max_bytes=tail_bytes)):
            kind = record.get("type")
            self.last_ts = self.last_ts or record.get("ts")
            preparing = kind == "progress" and record.get("phase") in PREPARATION
            if self.step is None and kind in ("progress", "metrics", "eval") and not preparing:
                self.step = record.get("step")
            if kind == "progress":
                self.phase = self.phase or record.get("phase")
            if kind == "progress" and not preparing:
                self.total_steps = self.total_steps or record.get("total_steps")
            elif kind in ("metrics", "eval"):
                for name, value in (record.get("values") or {}).items():
                    if isinstance(value, int | float):
                        self.metrics.setdefault(name, value)
            elif kind == "checkpoint":
                self.checkpoint = self.checkpoint or record.get("name")
