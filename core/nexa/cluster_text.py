"""What a scheduler's `ClusterView` says, in words; shared by the command line and the terminal UI."""

from __future__ import annotations

from collections.abc import Callable

from nexa import units
from nexa.scheduler import JobState, Partition, QueuedJob


def partition_line(partition: Partition) -> str:
    """One partition in a line: what is free in it and how long a run may take."""
    limit = f", up to {units.duration(partition.max_seconds)}" if partition.max_seconds is not None else ""
    default = ", default" if partition.is_default else ""
    return (
        f"{partition.name}: {partition.state}, {partition.idle_nodes} of {partition.nodes} nodes idle{limit}{default}"
    )


def share(free: float | None, whole: float | None, show: Callable[[float], str] = "{:g}".format) -> str:
    """What is free of a whole, such as "3/8"; "–" where the whole is unknown, "?" for an unknown part."""
    if whole is None:
        return "–"
    return f"{show(free) if free is not None else '?'}/{show(whole)}"


def job_line(job: QueuedJob, now: float) -> str:
    """Where a job runs and for how long, or why it waits and until when."""
    parts: list[str] = []
    later = ""
    if job.state is JobState.RUNNING:
        parts.append(", ".join(job.nodes) or f"{job.num_nodes} node(s)")
        parts.append(f"for {units.age(job.started_at, now=now)}" if job.started_at is not None else "")
        parts.append(f"of {units.duration(job.limit_seconds)}" if job.limit_seconds is not None else "")
    else:
        parts.append(job.reason)
        parts.append(f"since {units.age(job.submitted_at, now=now)}" if job.submitted_at is not None else "")
        if job.expected_start is not None and job.expected_start > now:
            later = f"starts in about {units.duration(job.expected_start - now)}"
    return ", ".join(part for part in (" ".join(filter(None, parts)), later) if part)
