"""Asking a scheduler for its cluster, and that in words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nexa import units
from nexa.errors import NexaError
from nexa.scheduler import ClusterView, Partition

if TYPE_CHECKING:
    from nexa.tui.services import Services


def ask_cluster(services: Services, scheduler: str) -> ClusterView:
    """What a scheduler has and does; one that can't be asked gives a view that says why."""
    try:
        return services.host().create("scheduler", scheduler).cluster()
    except NexaError as error:
        return ClusterView(taken_at=time.time(), problem=f"{error.message}\n{error.hint or ''}".strip())
    except Exception as error:
        # A scheduler is a plugin: its mistake is shown, and the rest of the UI goes on.
        return ClusterView(taken_at=time.time(), problem=f"{type(error).__name__}: {error}")


def partition_line(partition: Partition) -> str:
    """One partition in a line: what is free in it and how long a run may take."""
    limit = f", up to {units.duration(partition.max_seconds)}" if partition.max_seconds is not None else ""
    default = ", default" if partition.is_default else ""
    return (
        f"{partition.name}: {partition.state}, {partition.idle_nodes} of {partition.nodes} nodes idle{limit}{default}"
    )
