"""Restarts of a job: each is a new attempt of the same run, resumed from its newest checkpoint.

An attempt is never continued in place: Slurm starts the job's script anew, and the script's supervisor
takes the attempt that was prepared when the job went back into the queue, or makes one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from nexa.errors import NexaError, RunError
from nexa.files import write_json_once
from nexa.runs.jobs import job_of, record_job
from nexa.runs.store import AttemptFolder, Run
from nexa.scheduler import Attempt, JobRef
from nexa_slurm.allocation import Allocation
from nexa_slurm.commands import run_slurm
from nexa_slurm.login import LoginNode

_RETRY_SECONDS = 5.0
_OVER = frozenset({"completed", "killed"})

_log = logging.getLogger("nexa.slurm")


@dataclass(frozen=True, kw_only=True)
class NothingToDo(Exception):  # noqa: N818 - not a failure: the job ends in order
    """The job has no attempt to run; `reason` says why."""

    reason: str


def attempt_to_run(run: Run, number: int, allocation: Allocation) -> int:
    """Number of the attempt this start of the job is for; makes it after a restart.

    number: the attempt the job was submitted for. Raises NothingToDo where the run has ended or
    belongs to another job, NexaError where a new attempt can't be made.
    """
    latest = run.latest_attempt
    if latest is None:
        raise NexaError(f"{run.path} has no attempts", hint="start runs with: nexa launch")
    if allocation.restarts == 0:
        if latest.number != number:
            raise NothingToDo(reason=f"attempt {latest.number} has taken the place of attempt {number}")
        if latest.read("exit") is not None:
            raise NothingToDo(reason=f"attempt {number} has ended already")
        return number
    job = job_of(latest)
    if job is not None and job.job_id != allocation.job_id:
        raise NothingToDo(reason=f"attempt {latest.number} belongs to job {job.job_id}")
    return _restart(run, latest, allocation)


def _restart(run: Run, latest: AttemptFolder, allocation: Allocation) -> int:
    end = latest.read("exit")
    begun = latest.read("supervisor") is not None
    if latest.requested("keep") or (end is not None and end.get("state") in _OVER):
        record_end(latest, "stopped", "stopped while it waited in the queue")
        raise NothingToDo(reason=f"attempt {latest.number} was asked to stop or is complete")
    budget = int(run.plan["recipe"]["cluster"]["max_restarts"])
    if allocation.restarts > budget:
        reason = f"Slurm started the job again, but cluster.max_restarts={budget} is used up"
        record_end(latest, "stopped", reason)
        raise NothingToDo(reason=reason)
    if end is None and not begun:
        return latest.number
    # Processes of a node that Slurm has lost sight of may live on; they must not train beside the new ones.
    request = {"reason": "another attempt has taken its place", "requested_at": time.time()}
    write_json_once(latest.path / "stop", request)
    # The new attempt first: whoever looks between the two must not take the run for ended.
    made = next_attempt(run, allocation, "Slurm started the job again")
    record_end(latest, "lost", "Slurm put the job back into the queue before a checkpoint was saved")
    return made.number


def next_attempt(run: Run, allocation: Allocation, reason: str) -> Attempt:
    """Make the attempt that the job's next start is for, with this job as its job. Raises NexaError."""
    from nexa.runs.actions import newest_checkpoint

    checkpoint = newest_checkpoint(run)
    number = max(folder.number for folder in run.attempts) + 1
    start = f"from {checkpoint}" if checkpoint else "from the beginning, since it has no checkpoint"
    attempt = run.create_attempt(number, resume_from=checkpoint, reason=f"{reason}; resumes {start}")
    record_job(attempt, job_ref(attempt, allocation))
    return attempt


def job_ref(attempt: Attempt, allocation: Allocation) -> JobRef:
    """The reference to this job that is recorded with an attempt."""
    import os

    details: dict[str, Any] = {
        "run_dir": str(attempt.run_dir),
        "attempt": attempt.number,
        "uid": os.getuid(),
        "submitted_at": time.time(),
        "restarts": allocation.restarts,
    }
    # Commands on other machines reach the job through the login node that it was handed over at.
    at = LoginNode.of_attempt(attempt.run_dir, attempt.number)
    if at is not None:
        details["login"] = at.document()
    return JobRef(scheduler="slurm", job_id=allocation.job_id, details=details)


def makes_no_progress(run: Run, attempt: AttemptFolder) -> bool:
    """Whether this attempt and the one before began at the same checkpoint or at none, and none is newer still."""
    from nexa.runs.actions import newest_checkpoint

    before = AttemptFolder(run.path, attempt.number - 1)
    begins = [folder.read("attempt") for folder in (before, attempt)]
    starts = {begin.get("resume_from") for begin in begins if begin is not None}
    return None not in begins and starts == {newest_checkpoint(run)}


def put_back(run: Run, waiting: AttemptFolder, allocation: Allocation, deadline_seconds: float) -> bool:
    """Ask Slurm to put this job back into the queue for the attempt that waits; False where it can't be done.

    Tries for `deadline_seconds`, since a controller may be away for a while.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            run_slurm(["scontrol", "requeue", allocation.job_id])
        except NexaError as error:
            _log.warning("the job can't be put back into the queue: %s", error.message)
            if time.monotonic() > deadline:
                reason = f"the job could not be put back into the queue: {error.message}"
                record_end(waiting, "stopped", f"{reason}; continue with: nexa resume {run.run_id}")
                return False
            time.sleep(_RETRY_SECONDS)
        else:
            return True


def record_end(attempt: AttemptFolder, state: str, reason: str) -> None:
    """Write how an attempt ended that has no record of it."""
    document = {"exit_code": None, "signal": None, "state": state, "reason": reason, "ended_at": time.time()}
    try:
        write_json_once(attempt.path / "exit.json", document)
    except OSError as error:
        raise RunError(f"the end can't be recorded in {attempt.path}: {error.strerror or error}") from error
