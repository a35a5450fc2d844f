"""The contract of an observer: receives a run's events in the worker, on rank 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Observer(ABC):
    """A consumer of run events. `nexa.testing.observer.ObserverContract` tests one.

    An observer that raises is reported once as a `warning` event and dropped; it never ends a run.
    """

    @abstractmethod
    def open(self, run_id: str, run_dir: Path, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Prepare for events of a run; called again on every attempt."""

    @abstractmethod
    def event(self, record: Mapping[str, Any]) -> None:
        """Receive one event record, as written to the run's event file (see nexa.events)."""

    @abstractmethod
    def close(self) -> None:
        """Flush and release everything; called once, also when the run failed."""
