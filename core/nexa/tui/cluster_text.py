"""Asking a scheduler for its cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nexa.errors import NexaError
from nexa.scheduler import ClusterView

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
