"""The contract of a scheduler: start a run's workers on machines, and say truthfully how they are.

A scheduler starts, on every node of an attempt, the supervisor
(`python -m nexa.supervisor RUN_DIR ATTEMPT`), which starts the workers and records how they ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class JobState(StrEnum):
    """A scheduler's view of a job. UNKNOWN means the scheduler can't be asked now."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """State of one job and, in plain words, the reason it waits or ended."""

    state: JobState
    reason: str = ""
    nodes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """One machine or partition a scheduler can use; counts and bytes, None where unknown."""

    name: str
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    state: str = "idle"


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

        Raises NexaError, quoting the scheduler's own words, when it is refused.
        """

    @abstractmethod
    def status(self, jobs: Sequence[JobRef]) -> Sequence[JobStatus]:
        """Return the state of each job, in order, asking the scheduler once for all of them.

        Never raises because a scheduler is down: such jobs are UNKNOWN.
        """

    @abstractmethod
    def cancel(self, job: JobRef, *, force: bool) -> None:
        """Ask the job's workers to stop at the step boundary, or with `force` end them all."""

    @abstractmethod
    def resources(self) -> Sequence[NodeResources]:
        """Return the machines this scheduler can use now."""
