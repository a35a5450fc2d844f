"""The contract of a scheduler: start a run's workers on machines, and say truthfully how they are.

A scheduler starts, on every node of an attempt, the supervisor
(`python -m nexa.supervisor RUN_DIR ATTEMPT`), which starts the workers and records how they ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.compat import StrEnum
from nexa.errors import NexaError, UserError

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.errors import Problem
    from nexa.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a run: attempt 1 is the launch, each resume or requeue adds one."""

    run_id: str
    run_dir: Path
    number: int


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What `submit` will do, in a form a person can read and copy.

    argv: the exact command. script: text of the batch script, None when there is none. notes: why
    options were chosen, in words.
    """

    argv: Sequence[str]
    script: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class JobRef:
    """What a scheduler needs to find an attempt's job again; recorded in the run directory.

    details are JSON values (process id and boot id, a Slurm job id and cluster).
    """

    scheduler: str
    job_id: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ArrayMember:
    """One attempt of a job array with what a scheduler plans it from."""

    attempt: Attempt
    recipe: Recipe
    launch: LaunchSpec
    resources: Resources


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """Attempts of different runs that are handed over as one job.

    name: of the job. folder: made for this array alone, empty; what the scheduler keeps there it finds
    again later. max_concurrent: how many may run at once, None for no limit.
    """

    name: str
    folder: Path
    members: Sequence[ArrayMember]
    max_concurrent: int | None = None


class UncertainSubmissionError(NexaError):
    """The scheduler did not answer in time, so that nobody knows whether it took the job.

    The attempt stays open: if there is a job, it is found by `Scheduler.find` or makes itself known.
    """


class JobState(StrEnum):
    """A scheduler's view of a job. UNKNOWN means the scheduler can't be asked now."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """State of one job and, in plain words, the reason it waits or ended.

    failed: the scheduler itself saw the job end badly, so that a job without a supervisor's record need
    not be waited for.
    """

    state: JobState
    reason: str = ""
    nodes: Sequence[str] = ()
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """One machine a scheduler can use; counts and bytes, None where unknown.

    partitions: names of the partitions it belongs to. state: in the scheduler's words ("idle", "mixed",
    "down"). reason: why it can't be used, in words.
    """

    name: str
    partitions: Sequence[str] = ()
    state: str = "idle"
    reason: str = ""
    cpus: int | None = None
    free_cpus: int | None = None
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    gpus: int = 0
    free_gpus: int | None = None
    gpu_type: str = ""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A named set of machines with limits of its own. max_seconds: longest run, None without a limit."""

    name: str
    state: str = "up"
    is_default: bool = False
    max_seconds: float | None = None
    nodes: int = 0
    idle_nodes: int = 0


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """One job of this user that waits or runs, Nexa's or not.

    reason: why it waits, in plain English. Times are Unix seconds, None where unknown; expected_start is
    the scheduler's own estimate. run_id: of the Nexa run it belongs to, None for other jobs.
    """

    job_id: str
    name: str
    state: JobState
    reason: str = ""
    partition: str = ""
    num_nodes: int = 1
    nodes: Sequence[str] = ()
    submitted_at: float | None = None
    started_at: float | None = None
    expected_start: float | None = None
    limit_seconds: float | None = None
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """What a scheduler has and does, at `taken_at` (Unix seconds).

    problem: why the scheduler could not be asked, in its own words; the rest is then empty or old.
    """

    taken_at: float
    nodes: Sequence[NodeResources] = ()
    partitions: Sequence[Partition] = ()
    jobs: Sequence[QueuedJob] = ()
    problem: str = ""


class Scheduler(ABC):
    """Starts and finds jobs. `nexa.testing.scheduler.SchedulerContract` tests one."""

    @abstractmethod
    def check(self, recipe: Recipe, resources: Resources) -> Sequence[Problem]:
        """Return what stops this scheduler from starting the run; empty when nothing does."""

    @abstractmethod
    def plan(self, recipe: Recipe, attempt: Attempt, launch: LaunchSpec, resources: Resources) -> Submission:
        """Return exactly what `submit` would do. Pure: touches no file and no machine."""

    @abstractmethod
    def submit(self, attempt: Attempt, submission: Submission) -> JobRef:
        """Start the attempt and return at once; the job outlives the calling process.

        Raises NexaError, quoting the scheduler's own words, when it is refused, and
        UncertainSubmissionError when nobody knows whether it was.
        """

    def plan_array(self, array: JobArray) -> Submission:
        """Return exactly what `submit_array` would do. Pure.

        Offered by schedulers with capability "array". Raises UserError where the members can't be one job.
        """
        raise UserError(f"{type(self).__name__} has no job arrays", hint="start the runs one by one")

    def submit_array(self, array: JobArray, submission: Submission) -> Sequence[JobRef]:
        """Start all members as one job and return at once; a job for each, in order.

        Whatever is done to one of these jobs leaves the others alone. Raises as `submit` does.
        """
        raise UserError(f"{type(self).__name__} has no job arrays", hint="start the runs one by one")

    def find(self, attempts: Sequence[Attempt]) -> Sequence[JobRef | None]:
        """Return the job of each attempt whose submitting process did not live to record it, in order.

        None where there is no job or the scheduler can't tell. Asked of schedulers with capability "find".
        """
        return [None] * len(attempts)

    @abstractmethod
    def status(self, jobs: Sequence[JobRef]) -> Sequence[JobStatus]:
        """Return the state of each job, in order, asking the scheduler once for all of them.

        Never raises because a scheduler is down: such jobs are UNKNOWN.
        """

    @abstractmethod
    def cancel(self, job: JobRef, *, force: bool) -> None:
        """Ask the job's workers to stop at the step boundary, or with `force` end them all."""

    def requeue(self, job: JobRef) -> None:
        """Save a checkpoint and put the job back into the queue, to start again later; a held job is released.

        Offered by schedulers with capability "requeue". Raises UserError where it can't be done.
        """
        raise UserError(f"{type(self).__name__} can't requeue a job", hint="stop the run, then: nexa resume")

    @abstractmethod
    def cluster(self) -> ClusterView:
        """Return machines, partitions and this user's jobs as they are now; never raises because it is down."""
