"""Registers the scheduler `local`."""

from __future__ import annotations

from collections.abc import Iterable

from nexa import hookimpl
from nexa.specs import SchedulerSpec


@hookimpl
def nexa_register_schedulers() -> Iterable[SchedulerSpec]:
    """Return the scheduler for this machine."""
    return [
        SchedulerSpec(
            name="local",
            summary="Runs on this machine, detached from the terminal.",
            factory="nexa_local.scheduler:LocalScheduler",
        )
    ]
