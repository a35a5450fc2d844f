"""What can be done to a run: start an attempt, stop, kill, resume. Used by the command line and others."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import LaunchSpec, Resources
from nexa.errors import NexaError, RunError, UserError
from nexa.files import write_json_once
from nexa.runs.jobs import job_of, record_job
from nexa.runs.state import RunStatus, State, run_status
from nexa.runs.store import AttemptFolder, Run
from nexa.scheduler import Attempt, JobRef, Scheduler, Submission, UncertainSubmissionError
from nexa.worker.processes import processes_of
from nexa.worker.script import Script

if TYPE_CHECKING:
    from nexa.artifacts import ArtifactStore


def submit_attempt(run: Run, attempt: Attempt, scheduler: Scheduler, submission: Submission) -> JobRef:
    """Hand a new attempt to its scheduler and record the job.

    When the scheduler refuses, the attempt is recorded as failed with the scheduler's words, and the
    error is raised again. Where nobody knows whether it refused, nothing is recorded.
    """
    folder = AttemptFolder(run.path, attempt.number)
    try:
        job = scheduler.submit(attempt, submission)
    except UncertainSubmissionError:
        raise
    except NexaError as error:
        record_end(folder, State.FAILED, f"it could not be started: {error.message}")
        raise
    try:
        # The job may have been quicker to record itself.
        if not record_job(attempt, job) and job_of(folder) is None:
            raise FileExistsError(errno.EEXIST, "job.json is damaged")
    except OSError as error:
        # A job that nobody can find again must not run on.
        scheduler.cancel(job, force=True)
        reason = f"its job can't be recorded in {folder.path}: {error.strerror or error}"
        record_end(folder, State.FAILED, reason)
        raise NexaError(f"run {run.run_id} was ended again: {reason}", hint="free space, then: nexa resume") from error
    return job


def stop(run: Run, *, reason: str = "stopped by the user") -> RunStatus:
    """Ask a run to save a checkpoint at its next step and end; returns at once with its status.

    Raises RunError when the run has ended already.
    """
    attempt, status = _latest(run)
    if not status.active:
        raise _not_running(run, status, "stop")
    attempt.request("stop", reason)
    job = job_of(attempt)
    if job is not None:
        _scheduler(job.scheduler).cancel(job, force=False)
    return status


def kill(run: Run, *, reason: str = "killed by the user") -> RunStatus:
    """End all processes of a run, soon by force and whether or not they have saved; returns when they are gone.

    Raises RunError when the run has ended already, NexaError when processes resist.
    """
    attempt, status = _latest(run)
    if not status.active and not _processes_that_stay(run):
        raise _not_running(run, status, "kill")
    attempt.request("kill", reason)
    job = job_of(attempt)
    if job is not None:
        try:
            _scheduler(job.scheduler).cancel(job, force=True)
        except NexaError:
            attempt.withdraw("kill")
            raise
    if not processes_of(run.path, attempt.number):
        record_end(attempt, State.KILLED, reason)
    return run_status(run)


def requeue(run: Run, *, reason: str = "requeued by the user") -> RunStatus:
    """Ask a run to save a checkpoint and go back into its scheduler's queue; returns at once with its status.

    A held run is released. Raises RunError when the run has ended, UserError when its scheduler has no queue.
    """
    from nexa.plugins import get_host

    attempt, status = _latest(run)
    if not status.active:
        raise _not_running(run, status, "requeue")
    name, job = run.document["scheduler"], job_of(attempt)
    if "requeue" not in get_host().spec("scheduler", name).capabilities or job is None:
        raise UserError(
            f"scheduler {name!r} has no queue that run {run.run_id} could go back to",
            hint=f"stop it and continue later: nexa stop --wait {run.run_id}, then nexa resume {run.run_id}",
        )
    attempt.request("requeue", reason)
    try:
        _scheduler(name).requeue(job)
    except NexaError:
        attempt.withdraw("requeue")
        raise
    return status


def resume(run: Run, *, checkpoint: str | None = None, overrides: Sequence[str] = (), force: bool = False) -> Attempt:
    """Start a new attempt from the run's newest checkpoint, or from the beginning if it has none.

    overrides: other machines, processes or strategy from now on: see `nexa.runs.replanning`. checkpoint:
    name of one of the run's checkpoints to continue from instead. The worker verifies the checkpoint and
    falls back to the one before when it is damaged. Of two resumes at once, one wins. Raises RunError when
    the run is complete, may still be alive, or trains a model of a script that can't be started again; `force`
    resumes a run of another machine that only looks lost.
    """
    from nexa.runs.replanning import replan

    number, checkpoint, reason = resumption(run, checkpoint=checkpoint, force=force)
    if script := run.plan.get("script"):
        Script.from_document(script).require_startable(run.run_id)
    changed = replan(run, overrides) if overrides else None
    require_environment((changed or run.plan)["launch"])
    scheduler, submission = plan_attempt(run, number, changed or run.plan)
    if overrides:
        reason += f", with {' '.join(overrides)}"
    attempt = run.create_attempt(number, resume_from=checkpoint, reason=reason, plan=changed)
    submit_attempt(run, attempt, scheduler, submission)
    return attempt


def require_environment(launch: Mapping[str, Any]) -> None:
    """Raise RunError where the environment that a run was planned for is gone from this machine."""
    code, environment = launch.get("code"), launch.get("environment") or {}
    if environment.get("kind") == "created" and not Path(launch["python"]).exists():
        raise RunError(
            f"the environment {environment['name']} that the run was planned for is gone ({launch['python']})",
            hint="build it again with the same packages: nexa env create BACKEND; else start a new run from the "
            "checkpoint: nexa launch … model.name=CHECKPOINT",
        )
    if code is not None and not Path(code).is_dir():
        raise RunError(
            f"the workers' code that the run was planned with is gone ({code})",
            hint="start a new run from its checkpoint: nexa launch … model.name=CHECKPOINT",
        )


def plan_attempt(run: Run, number: int, plan: Mapping[str, Any]) -> tuple[Scheduler, Submission]:
    """The run's scheduler, and what submitting attempt `number` of a plan document does."""
    from nexa.recipe.schema import Recipe

    scheduler = _scheduler(run.document["scheduler"])
    attempt = Attempt(run_id=run.run_id, run_dir=run.path, number=number)
    recipe, resources = Recipe.from_document(plan["recipe"]), Resources(**plan["resources"])
    return scheduler, scheduler.plan(recipe, attempt, LaunchSpec.from_document(plan["launch"]), resources)


def resumption(run: Run, *, checkpoint: str | None = None, force: bool = False) -> tuple[int, str | None, str]:
    """Number of the attempt that continues a run, the checkpoint it starts from, and that in words.

    Raises RunError as `resume` does.
    """
    previous = run.latest_attempt
    _refuse_resume(run, run_status(run), force=force)
    checkpoint = newest_checkpoint(run) if checkpoint is None else _own_checkpoint(run, checkpoint)
    reason = f"resumes from {checkpoint or 'the beginning, since it has no checkpoint'}"
    return previous.number + 1 if previous else 1, checkpoint, reason


def _refuse_resume(run: Run, status: RunStatus, *, force: bool) -> None:
    if status.state is State.COMPLETED:
        raise RunError(
            f"run {run.run_id} is complete ({status.step} steps); there is nothing to resume",
            hint=f"start a new one from its recipe: nexa launch {run.path / 'recipe.yaml'} training.max_steps=…",
        )
    if status.active and not (force and status.state in (State.PROBABLY_LOST, State.STALE)):
        hint = f"stop it first: nexa stop --wait {run.run_id}"
        if status.state is State.PROBABLY_LOST:
            hint = f"if you know that it is dead: nexa resume --force {run.run_id}"
        raise RunError(f"run {run.run_id} may still be alive ({status.state})", hint=hint)
    alive = _processes_that_stay(run)
    if alive:
        raise RunError(
            f"processes of run {run.run_id} are still alive: {', '.join(map(str, alive))}",
            hint=f"wait for them, or end them: nexa kill {run.run_id}",
        )


def _processes_that_stay(run: Run) -> list[int]:
    """Processes of an ended run, but for supervisors that have recorded the end: they do nothing more."""
    done = {(folder.read("supervisor") or {}).get("pid") for folder in run.attempts if folder.read("exit")}
    return [pid for pid in processes_of(run.path) if pid not in done]


def newest_checkpoint(run: Run) -> str | None:
    """Name of the run's newest checkpoint artifact, None when it has none. Raises NexaError."""
    names = [artifact.name for artifact in open_store(run).list(f"checkpoints/{run.run_id}")]
    return max(names, default=None)


def _own_checkpoint(run: Run, name: str) -> str:
    """`name`, where it is one of the run's checkpoints, given whole or by its last part. Raises RunError."""
    names = [artifact.name for artifact in open_store(run).list(f"checkpoints/{run.run_id}")]
    for known in names:
        if name in (known, known.rpartition("/")[2]):
            return known
    have = ", ".join(known.rpartition("/")[2] for known in names) or "none"
    raise RunError(f"run {run.run_id} has no checkpoint {name!r}", hint=f"its checkpoints: {have}")


def open_store(run: Run) -> ArtifactStore:
    """The artifact store the run commits to. Raises NexaError when it can't be opened."""
    from nexa.worker.checkpoints import load_store

    return load_store(run.plan["store"])


def _scheduler(name: str) -> Scheduler:
    from nexa.plugins import get_host

    scheduler: Scheduler = get_host().create("scheduler", name)
    return scheduler


def _latest(run: Run) -> tuple[AttemptFolder, RunStatus]:
    """The newest attempt and the run's status. Raises RunError when there is no attempt."""
    attempt = run.latest_attempt
    if attempt is None:
        raise RunError(f"run {run.run_id} was never started", hint=f"start it with: nexa resume {run.run_id}")
    return attempt, run_status(run)


def _not_running(run: Run, status: RunStatus, verb: str) -> RunError:
    why = f" ({status.reason})" if status.reason else ""
    return RunError(
        f"run {run.run_id} is not running: {status.state}{why}",
        hint=f"there is nothing to {verb}; see: nexa show {run.run_id}",
    )


def record_end(attempt: AttemptFolder, state: State, reason: str) -> None:
    """Write how an attempt ended that no supervisor writes about, unless that is recorded. Raises NexaError."""
    document = {"exit_code": None, "signal": None, "state": str(state), "reason": reason, "ended_at": time.time()}
    try:
        write_json_once(attempt.path / "exit.json", document)
    except OSError as error:
        raise NexaError(f"the end can't be recorded in {attempt.path}: {error.strerror or error}") from error
