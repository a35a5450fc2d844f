"""LocalScheduler: one detached supervisor a run, found again by process id, start time and boot."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import NexaError, Problem
from nexa.files import read_json, write_json_once
from nexa.quantities import bytes_of
from nexa.scheduler import (
    Attempt,
    ClusterView,
    JobRef,
    JobState,
    JobStatus,
    NodeResources,
    QueuedJob,
    Scheduler,
    Submission,
)
from nexa.units import size
from nexa.worker.command import ATTEMPT_VARIABLE, RUN_DIR_VARIABLE
from nexa.worker.environment import gpu_names, memory_bytes, usable_cpus
from nexa.worker.identity import Liveness, ProcessIdentity
from nexa.worker.processes import end_processes

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.recipe.schema import Recipe

# A supervisor starts in a fraction of a second; a machine this slow has another problem.
_START_SECONDS = 60.0
_KILL_GRACE_SECONDS = 2.0
# How long a supervisor may take to write its last record before it is ended too.
_RECORD_SECONDS = 5.0

_STATES = {
    Liveness.ALIVE: JobStatus(state=JobState.RUNNING),
    Liveness.GONE: JobStatus(state=JobState.ENDED, reason="its supervisor is gone"),
    Liveness.REBOOTED: JobStatus(state=JobState.ENDED, reason="the machine was rebooted"),
    Liveness.ELSEWHERE: JobStatus(state=JobState.UNKNOWN, reason="it runs on another machine"),
}


class LocalScheduler(Scheduler):
    """Starts runs on this machine at once; there is no queue."""

    def check(self, recipe: Recipe, resources: Resources) -> Sequence[Problem]:
        """Return why this machine can't hold the run: more machines or GPUs than there are."""
        problems = []
        if resources.num_nodes > 1:
            problems.append(
                Problem(
                    message=f"{resources.num_nodes} machines are asked for; the local scheduler has this one",
                    path="cluster.num_nodes",
                    hint="set cluster.num_nodes to 1, or choose another scheduler: nexa plugins",
                )
            )
        problems += _more_than_there_is(recipe)
        present = len(gpu_names()) if resources.gpus_per_node else 0
        if resources.gpus_per_node > present:
            problems.append(
                Problem(
                    message=f"{resources.gpus_per_node} GPUs are asked for; this machine has {present}",
                    path="cluster.gpus_per_node",
                    hint=f"set cluster.gpus_per_node to {present}" + ("" if present else ", which trains on CPU"),
                )
            )
        return problems

    def plan(self, recipe: Recipe, attempt: Attempt, launch: LaunchSpec, resources: Resources) -> Submission:
        """Return the command of the supervisor. Pure."""
        argv = [sys.executable, "-m", "nexa.supervisor", "--detach", str(attempt.run_dir), str(attempt.number)]
        notes = ["starts at once and outlives this terminal"]
        if recipe is not None and recipe.cluster.time_limit is not None:
            notes.append(
                f"saves a checkpoint and stops {recipe.cluster.stop_lead_seconds} s before its time limit of "
                f"{recipe.cluster.time_limit}; nothing starts it again here: nexa resume"
            )
        return Submission(argv=argv, notes=notes)

    def submit(self, attempt: Attempt, submission: Submission) -> JobRef:
        """Start the supervisor; returns once it has taken the attempt over.

        Raises NexaError with its words when it can't start.
        """
        environment = {
            **os.environ,
            # A file in the current folder must not shadow a library's module.
            "PYTHONSAFEPATH": "1",
            RUN_DIR_VARIABLE: str(attempt.run_dir),
            ATTEMPT_VARIABLE: str(attempt.number),
        }
        try:
            answer = subprocess.run(
                list(submission.argv),
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_START_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NexaError(f"the supervisor can't be started: {error}") from error
        document = read_json(attempt.run_dir / "attempts" / str(attempt.number) / "supervisor.json")
        if answer.returncode != 0 or document is None:
            words = answer.stderr.strip().removeprefix("error: ") or f"exit code {answer.returncode}"
            raise NexaError(f"the supervisor can't be started: {words}")
        details = {**document, "run_dir": str(attempt.run_dir), "attempt": attempt.number}
        return JobRef(scheduler="local", job_id=str(document["pid"]), details=details)

    def status(self, jobs: Sequence[JobRef]) -> Sequence[JobStatus]:
        """Return whether each job's supervisor still exists."""
        return [_status(job) for job in jobs]

    def cancel(self, job: JobRef, *, force: bool) -> None:
        """Leave a stop request, or with `force` end every process of the attempt and wait for that.

        Raises NexaError when the run belongs to another machine or processes resist.
        """
        run_dir, attempt = Path(job.details["run_dir"]), int(job.details["attempt"])
        if not force:
            with contextlib.suppress(FileNotFoundError):
                write_json_once(
                    run_dir / "attempts" / str(attempt) / "stop",
                    {"reason": "cancelled", "requested_at": time.time()},
                )
            return
        identity = ProcessIdentity.from_document(job.details)
        if identity is not None and identity.liveness() is Liveness.ELSEWHERE:
            raise NexaError(
                f"the run belongs to {identity.host}, this is {socket.gethostname()}",
                hint=f"log in to {identity.host} and repeat the command there",
            )
        # The workers first, so that the supervisor can record how they ended.
        supervisor = {identity.pid} if identity else set()
        left = end_processes(run_dir, attempt, grace_seconds=_KILL_GRACE_SECONDS, spare=supervisor)
        if identity is not None:
            _await_end(identity)
        left = left or end_processes(run_dir, attempt, grace_seconds=0.0)
        if left:
            raise NexaError(
                f"processes {', '.join(map(str, left))} can't be ended",
                hint="they hang in the kernel or belong to another user; see: ps -o pid,user,stat,wchan -p PID",
            )

    def cluster(self) -> ClusterView:
        """Return this machine and the runs of the user's run folder that it holds."""
        here = NodeResources(
            name=socket.gethostname(), cpus=usable_cpus(), memory_bytes=memory_bytes(), gpus=len(gpu_names())
        )
        return ClusterView(taken_at=time.time(), nodes=[here], jobs=_active_runs())


def _more_than_there_is(recipe: Recipe | None) -> Iterator[Problem]:
    """Problems of a request for more cores or memory than this machine has."""
    if recipe is None:
        return
    cpus, memory = recipe.cluster.cpus_per_node, recipe.cluster.memory_per_node
    if cpus is not None and cpus > usable_cpus():
        yield Problem(
            message=f"{cpus} CPU cores are asked for; this machine has {usable_cpus()}",
            path="cluster.cpus_per_node",
            hint="lower it, or leave it out",
        )
    there = memory_bytes()
    if memory is not None and there is not None and bytes_of(memory) > there:
        yield Problem(
            message=f"{memory} of memory are asked for; this machine has {size(there)}",
            path="cluster.memory_per_node",
            hint="lower it, or leave it out",
        )


def _active_runs() -> Sequence[QueuedJob]:
    """Local runs of the user's run folder that have not ended; none where the folder can't be read."""
    from nexa.runs.jobs import job_of
    from nexa.runs.state import run_statuses
    from nexa.runs.store import RunStore
    from nexa.settings import get_settings

    try:
        listed = [(run, run.latest_attempt) for run in RunStore(get_settings().runs_dir).list()]
        open_runs = [
            (run, job)
            for run, attempt in listed
            if attempt is not None and attempt.read("exit") is None and (job := job_of(attempt)) is not None
        ]
        local = [(run, job) for run, job in open_runs if job.scheduler == "local"]
        statuses = run_statuses([run for run, _ in local])
    except NexaError:
        return []
    return [
        QueuedJob(
            job_id=job.job_id,
            name=run.name,
            state=JobState.RUNNING,
            reason=status.reason,
            nodes=[str(job.details.get("host", ""))],
            submitted_at=status.created_at,
            started_at=status.started_at,
            run_id=run.run_id,
        )
        for (run, job), status in zip(local, statuses, strict=True)
        if status.active
    ]


def _await_end(identity: ProcessIdentity) -> None:
    deadline = time.monotonic() + _RECORD_SECONDS
    while identity.liveness() is Liveness.ALIVE and time.monotonic() < deadline:
        time.sleep(0.02)


def _status(job: JobRef) -> JobStatus:
    identity = ProcessIdentity.from_document(job.details)
    return _STATES[identity.liveness()] if identity else JobStatus(state=JobState.UNKNOWN)
