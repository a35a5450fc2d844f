"""A scheduler: starts Nexa's supervisor as a process of its own, and tells how it is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import NexaError, Problem
from nexa.scheduler import Attempt, ClusterView, JobRef, JobState, JobStatus, NodeResources, Scheduler, Submission
from nexa.worker.identity import Liveness, ProcessIdentity
from nexa.worker.processes import end_processes

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.recipe.schema import Recipe

_KILL_GRACE_SECONDS = 2.0
_STATES = {
    Liveness.ALIVE: JobState.RUNNING,
    Liveness.GONE: JobState.ENDED,
    Liveness.REBOOTED: JobState.ENDED,
    Liveness.ELSEWHERE: JobState.UNKNOWN,
}


class DetachedScheduler(Scheduler):
    """Runs one attempt as one detached supervisor process."""

    def check(self, recipe: Recipe, resources: Resources) -> Sequence[Problem]:
        """There is one machine."""
        if resources.num_nodes > 1:
            return [Problem(path="cluster.num_nodes", message="echo-detached has one machine", hint="write 1")]
        return []

    def plan(self, recipe: Recipe, attempt: Attempt, launch: LaunchSpec, resources: Resources) -> Submission:
        """The supervisor's command; it starts the workers."""
        argv = [sys.executable, "-m", "nexa.supervisor", str(attempt.run_dir), str(attempt.number)]
        return Submission(argv=argv)

    def submit(self, attempt: Attempt, submission: Submission) -> JobRef:
        """Start the command in a session of its own, so that closing the terminal does not end it."""
        try:
            process = subprocess.Popen(
                list(submission.argv),
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise NexaError(f"the supervisor can't be started: {error}") from error
        identity = ProcessIdentity.of(process.pid)
        details = {**identity.document(), "run_dir": str(attempt.run_dir), "attempt": attempt.number}
        return JobRef(scheduler="echo-detached", job_id=str(process.pid), details=details)

    def status(self, jobs: Sequence[JobRef]) -> Sequence[JobStatus]:
        """Whether each supervisor still exists."""
        return [_status(job) for job in jobs]

    def cancel(self, job: JobRef, *, force: bool) -> None:
        """SIGTERM makes the supervisor ask its workers to stop; `force` ends all of them."""
        identity = ProcessIdentity.from_document(job.details)
        if identity is None or identity.liveness() is not Liveness.ALIVE:
            return
        if force:
            end_processes(
                Path(job.details["run_dir"]), int(job.details["attempt"]), grace_seconds=_KILL_GRACE_SECONDS
            )
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGTERM)

    def cluster(self) -> ClusterView:
        """This machine."""
        return ClusterView(taken_at=time.time(), nodes=[NodeResources(name="here", cpus=os.cpu_count())])


def _status(job: JobRef) -> JobStatus:
    identity = ProcessIdentity.from_document(job.details)
    return JobStatus(state=_STATES[identity.liveness()] if identity else JobState.UNKNOWN)
