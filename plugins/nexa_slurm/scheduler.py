"""SlurmScheduler: hands attempts to sbatch, finds their jobs again, and says how they are."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa import units
from nexa.errors import NexaError, Problem, UserError
from nexa.files import write_json_once
from nexa.scheduler import (
    Attempt,
    ClusterView,
    JobArray,
    JobRef,
    JobState,
    JobStatus,
    Scheduler,
    Submission,
    UncertainSubmissionError,
)
from nexa.text import sanitize_line
from nexa_slurm import arrays
from nexa_slurm.commands import ControllerError, SlurmError, run_at, run_slurm, show_job
from nexa_slurm.login import LoginNode
from nexa_slurm.queue import JobQueue, QueuedEntry, Snapshot, pending_reason
from nexa_slurm.refusals import refusal
from nexa_slurm.states import exit_code_in_words, has_failed, job_state
from nexa_slurm.submission import options_of, plan_submission, token_of

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.recipe.schema import Recipe

# How long an sbatch that gave no answer may still make its job appear in the queue.
_APPEAR_SECONDS = 15.0
_CANCEL_SECONDS = 30.0
_POLL_SECONDS = 0.2


class SlurmScheduler(Scheduler):
    """Queues runs on the Slurm cluster that this machine's commands talk to."""

    def __init__(self) -> None:
        self._queues: dict[LoginNode | None, JobQueue] = {}
        # What this process did to the queue last; a look at it must be newer.
        self._acted_at = 0.0

    def check(self, recipe: Recipe, resources: Resources) -> Sequence[Problem]:
        """Return why this machine can't submit at all; whether Slurm takes the job, only Slurm knows."""
        from nexa_slurm.containers import container_problems

        options = options_of(recipe)
        remote = options.host is not None
        needed = ("ssh",) if remote else ("sbatch", "squeue", "scancel", "scontrol")
        missing = [name for name in needed if shutil.which(name) is None]
        if not missing:
            return container_problems(recipe, options)
        hint = "run the command on a login node of the cluster, or name one in slurm.host"
        return [
            Problem(
                message=f"there is no {', '.join(missing)} on this machine",
                path="slurm.host" if remote else "scheduler",
                hint="install OpenSSH's client" if remote else hint,
            )
        ]

    def plan(self, recipe: Recipe, attempt: Attempt, launch: LaunchSpec, resources: Resources) -> Submission:
        """Return the sbatch command with its script. Pure."""
        return plan_submission(recipe, attempt, launch, resources)

    def submit(self, attempt: Attempt, submission: Submission) -> JobRef:
        """Hand the job to sbatch.

        Raises UserError or NexaError quoting Slurm where it refuses, UncertainSubmissionError where no
        answer came and the queue does not show the job either.
        """
        begun = time.time()
        _refuse_backslash(attempt.run_dir)
        at = LoginNode.of_attempt(attempt.run_dir, attempt.number)
        job_id, cluster = self._hand_over(submission, attempt, attempt.run_id, token_of(attempt), at)
        return _job_ref(attempt, job_id, submitted_at=begun, cluster=cluster, at=at)

    def plan_array(self, array: JobArray) -> Submission:
        """Return the sbatch command that starts all members. Raises UserError where they ask for different things."""
        return arrays.plan_array(array)

    def submit_array(self, array: JobArray, submission: Submission) -> Sequence[JobRef]:
        """Hand all members to sbatch as one job; raises as `submit` does."""
        begun = time.time()
        _refuse_backslash(array.folder)
        arrays.write_members(array)
        first = array.members[0].attempt
        at = LoginNode.of_attempt(first.run_dir, first.number)
        token = arrays.token_of_array(array.folder)
        job_id, cluster = self._hand_over(submission, first, array.name, token, at, "sweep ")
        return [
            _job_ref(member.attempt, f"{job_id}_{task}", submitted_at=begun, cluster=cluster, at=at)
            for task, member in enumerate(array.members)
        ]

    def find(self, attempts: Sequence[Attempt]) -> Sequence[JobRef | None]:
        """Return the jobs that carry the attempts' tokens."""
        places = [LoginNode.of_attempt(attempt.run_dir, attempt.number) for attempt in attempts]
        snapshots = {at: self._queue(at).snapshot() for at in set(places)}
        return [_marked_job(snapshots[at], attempt, at) for attempt, at in zip(attempts, places, strict=True)]

    def status(self, jobs: Sequence[JobRef]) -> Sequence[JobStatus]:
        """Return the state of each job, from one look at the queue."""
        if not jobs:
            return []
        uids = {int(job.details["uid"]) for job in jobs if "uid" in job.details}
        places = {_place(job) for job in jobs}
        snapshots = {at: self._queue(at).snapshot(newer_than=self._acted_at, uids=uids) for at in places}
        return [self._status(job, snapshots[_place(job)]) for job in jobs]

    def cancel(self, job: JobRef, *, force: bool) -> None:
        """Leave a stop request and take the job out of the queue if it waits; with `force`, end it.

        Raises NexaError with Slurm's words where it does not obey.
        """
        folder = attempt_folder(job)
        if folder.is_dir():
            moment = time.time()
            # `keep` tells the supervisor that a job which ends now must not go back into the queue.
            write_json_once(folder / "keep", {"reason": "cancelled", "requested_at": moment})
            write_json_once(folder / "stop", {"reason": "cancelled", "requested_at": moment})
        try:
            if force:
                run_slurm(["scancel", job.job_id], at=_place(job))
            else:
                _take_out_of_queue(job.job_id, _place(job))
        except ControllerError:
            raise
        except SlurmError as error:
            if "Invalid job id" not in error.words and "already" not in error.words:
                raise
        self._acted_at = time.time()
        if force:
            self._await_end(job)
        else:
            _record_unstarted(job, folder)

    def requeue(self, job: JobRef) -> None:
        """Leave a request that the job's supervisor obeys; release the job where it is held.

        Raises UserError for a job that has ended, NexaError with Slurm's words.
        """
        state, details = show_job(job.job_id, _place(job))
        request = attempt_folder(job) / "requeue"
        if state.startswith("PENDING"):
            # Where it is to go it is already; left there, the request would send its next start back at once.
            request.unlink(missing_ok=True)
            # A job whose priority is 0 waits for its release, whatever reason is given.
            if details.get("Priority") == "0":
                run_slurm(["scontrol", "release", job.job_id], at=_place(job))
        elif state.startswith(("RUNNING", "SUSPENDED", "CONFIGURING")):
            write_json_once(request, {"reason": "requeued", "requested_at": time.time()})
        else:
            raise UserError(
                f"job {job.job_id} has ended ({state or 'Slurm no longer knows it'})", hint="continue it: nexa resume"
            )
        self._acted_at = time.time()

    def cluster(self) -> ClusterView:
        """Return nodes, partitions and this user's jobs, as the login node of the user's settings sees them."""
        from nexa.settings import get_settings
        from nexa_slurm.cluster import cluster_view

        queue = self._queue(LoginNode.from_document(get_settings().defaults.get("slurm", {})))
        return cluster_view(queue, queue.snapshot(newer_than=self._acted_at))

    def _queue(self, at: LoginNode | None) -> JobQueue:
        return self._queues.setdefault(at, JobQueue(at=at))

    def _hand_over(
        self, submission: Submission, attempt: Attempt, name: str, token: str, at: LoginNode | None, noun: str = ""
    ) -> tuple[str, str]:
        """Call sbatch; return the job's id and the cluster's name, which is "" for the only one.

        attempt: one that the job is for. noun: before the commands that a message names, such as "sweep ".
        """
        try:
            if at is None:
                answer = run_slurm(submission.argv, PYTHONSAFEPATH="1")
            else:
                from nexa_slurm.sending import prepare_login_node

                prepare_login_node(at, attempt)
                answer = run_at(at, submission.argv, "sbatch")
        except ControllerError as error:
            return self._look_for(name, token, noun, error, at), ""
        except SlurmError as error:
            raise refusal(error, at) from error
        self._acted_at = time.time()
        job_id, _, cluster = answer.strip().splitlines()[-1].partition(";")
        if not job_id.isdigit():
            raise NexaError(f"sbatch gave no job id but {sanitize_line(answer.strip())!r}")
        return job_id, cluster

    def _look_for(self, name: str, token: str, noun: str, error: ControllerError, at: LoginNode | None) -> str:
        """Id of the job of an sbatch that gave no answer, if the queue comes to show it."""
        deadline = time.monotonic() + _APPEAR_SECONDS
        while True:
            try:
                found = _listed_job(name, token, at)
            except NexaError:
                found = None
            if found is not None:
                return found
            if time.monotonic() > deadline:
                break
            time.sleep(1.0)
        raise UncertainSubmissionError(
            f"Slurm did not say whether it took the job: {error.message}",
            hint=f"if it did, it starts by itself: nexa {noun}show {name}; else, once Slurm answers: "
            f"nexa {noun}resume {name}",
        )

    def _status(self, job: JobRef, snapshot: Snapshot) -> JobStatus:
        entry = snapshot.entries.get(job.job_id)
        if snapshot.problem:
            since = f"since {units.clock(snapshot.since)} " if snapshot.since else ""
            return JobStatus(state=JobState.UNKNOWN, reason=f"Slurm can't be asked {since}({snapshot.problem})")
        if entry is not None:
            return self._entry_status(job, entry)
        if float(job.details.get("submitted_at", 0.0)) > snapshot.taken_at:
            return JobStatus(state=JobState.PENDING, reason="just handed to Slurm")
        at = _place(job)
        return _left(job, self._queue(at).ended(job.job_id, lambda: _ask_accounting(job.job_id, at)))

    def _entry_status(self, job: JobRef, entry: QueuedEntry) -> JobStatus:
        state, reason = job_state(entry.state)
        nodes = [entry.nodes] if entry.nodes else []
        if state is JobState.PENDING:
            return JobStatus(state=state, reason=pending_reason(entry))
        if state is JobState.ENDED and has_failed(entry.state):
            at = _place(job)
            code = self._queue(at).ended(job.job_id, lambda: show_job(job.job_id, at)[1].get("ExitCode", ""))
            detail = exit_code_in_words(code) if code and entry.state == "FAILED" else ""
            words = f"{reason} on {entry.nodes}: {detail}" if detail else reason
            return JobStatus(state=state, reason=words, nodes=nodes, failed=True)
        return JobStatus(state=state, reason=reason, nodes=nodes)

    def _await_end(self, job: JobRef) -> None:
        """Wait until Slurm has ended the job's processes."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        while time.monotonic() < deadline:
            state, _ = show_job(job.job_id, _place(job))
            if not state.startswith(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING")):
                self._acted_at = time.time()
                return
            time.sleep(_POLL_SECONDS)
        raise NexaError(
            f"job {job.job_id} is still there {_CANCEL_SECONDS:g} s after scancel",
            hint=f"Slurm goes on trying; see: squeue -j {job.job_id}",
        )


def attempt_folder(job: JobRef) -> Path:
    """Folder of the attempt that a job is for."""
    return Path(job.details["run_dir"]) / "attempts" / str(job.details["attempt"])


def _ask_accounting(job_id: str, at: LoginNode | None = None) -> str:
    """State that the accounting has of a job, where there is accounting; else ""."""
    if at is None and shutil.which("sacct") is None:
        return ""
    words = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}"]
    text = run_slurm(words, at=at)
    return text.strip().splitlines()[-1].strip() if text.strip() else ""


def _left(job: JobRef, state: str) -> JobStatus:
    """The status of a job that is no longer in the queue."""
    known, reason = job_state(state)
    if known is not JobState.ENDED:
        return JobStatus(state=JobState.ENDED, reason=f"Slurm no longer knows job {job.job_id}")
    return JobStatus(state=JobState.ENDED, reason=reason, failed=has_failed(state))


def _job_ref(
    attempt: Attempt, job_id: str, *, submitted_at: float, cluster: str = "", at: LoginNode | None = None
) -> JobRef:
    details: dict[str, Any] = {
        "run_dir": str(attempt.run_dir),
        "attempt": attempt.number,
        "uid": os.getuid(),
        "submitted_at": submitted_at,
        **({"cluster": cluster} if cluster else {}),
        **({"login": at.document()} if at is not None else {}),
    }
    return JobRef(scheduler="slurm", job_id=job_id, details=details)


def _place(job: JobRef) -> LoginNode | None:
    """The login node through which a job is reached; None for this machine."""
    return LoginNode.from_document(job.details.get("login") or {})


def _marked_job(snapshot: Snapshot, attempt: Attempt, at: LoginNode | None) -> JobRef | None:
    in_array = arrays.task_of(attempt)
    token, suffix = (token_of(attempt), "") if in_array is None else (in_array[0], f"_{in_array[1]}")
    for job_id, entry in snapshot.entries.items():
        if entry.comment == token and job_id.endswith(suffix):
            return _job_ref(attempt, job_id, submitted_at=entry.submitted_at or 0.0, at=at)
    return None


def _listed_job(name: str, token: str, at: LoginNode | None) -> str | None:
    """Id of the job with this name and comment, asked for directly: only after an sbatch without answer.

    Raises as `run_slurm` does.
    """
    # %F is an array's own id for each of its tasks.
    text = run_slurm(["squeue", "--me", "--noheader", "--states=all", "--format=%F %k", f"--name={name}"], at=at)
    marked = (line.partition(" ") for line in text.splitlines())
    return next((job_id for job_id, _, comment in marked if comment == token), None)


def _refuse_backslash(folder: Path) -> None:
    if "\\" in str(folder):
        raise UserError(
            f"Slurm can't write logs below {folder}: there is a backslash in it",
            hint="set NEXA_RUNS_DIR to another folder",
        )


def _take_out_of_queue(job_id: str, at: LoginNode | None) -> None:
    """Cancel a job that waits, and leave alone one that runs. Raises as `run_slurm` does."""
    if "_" not in job_id:
        run_slurm(["scancel", "--state=PENDING", job_id], at=at)
    elif show_job(job_id, at)[0].startswith("PENDING"):
        # With a filter scancel takes all waiting tasks of an array for the one that is named.
        run_slurm(["scancel", job_id], at=at)


def _record_unstarted(job: JobRef, folder: Path) -> None:
    """Record the end of a job that was cancelled before it began."""
    if not folder.is_dir() or (folder / "supervisor.json").exists():
        return
    state, _ = show_job(job.job_id, _place(job))
    if not state or state.startswith("CANCELLED"):
        document = {"exit_code": None, "signal": None, "state": "stopped", "reason": "cancelled before it started"}
        write_json_once(folder / "exit.json", {**document, "ended_at": time.time()})
