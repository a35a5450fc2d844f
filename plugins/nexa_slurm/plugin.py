"""Registers the scheduler `slurm`."""

from __future__ import annotations

from collections.abc import Iterable

from nexa import hookimpl
from nexa.specs import SchedulerSpec


@hookimpl
def nexa_register_schedulers() -> Iterable[SchedulerSpec]:
    """Return the scheduler for Slurm clusters."""
    return [
        SchedulerSpec(
            name="slurm",
            summary="Queues runs on a Slurm cluster, and restarts them after time limits, preemption and lost nodes.",
            factory="nexa_slurm.scheduler:SlurmScheduler",
            options_model="nexa_slurm.options:SlurmOptions",
            capabilities=frozenset({"requeue", "find", "array"}),
        )
    ]
