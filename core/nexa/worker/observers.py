"""Forwards event records to observers, each on its own thread, so that none can hold up training.

Standard library only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexa.worker.loading import create

_QUEUE_RECORDS = 10_000
_CLOSE_SECONDS = 30.0


class ObserverThread(threading.Thread):
    """One observer: opened, fed and closed here; dropped, with one warning, when it fails."""

    def __init__(self, entry: Mapping[str, Any], open_arguments: Sequence[Any], warn: Callable[[str], None]) -> None:
        super().__init__(name=f"observer-{entry['name']}", daemon=True)
        self._entry = entry
        self._open_arguments = open_arguments
        self._warn = warn
        self._records: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_QUEUE_RECORDS)
        self._dropped = False

    def run(self) -> None:
        """Deliver records until `finish`."""
        name = self._entry["name"]
        try:
            observer = create(self._entry["factory"])
            observer.open(*self._open_arguments, self._entry.get("options", {}))
        except Exception as error:
            self._drop(f"observer {name} can't start and is left out: {_words(error)}")
            return
        try:
            while (record := self._records.get()) is not None:
                if not self._dropped:
                    observer.event(record)
        except Exception as error:
            self._drop(f"observer {name} failed and is left out from here on: {_words(error)}")
        try:
            observer.close()
        except Exception as error:
            self._drop(f"observer {name} failed while closing: {_words(error)}")

    def put(self, record: Mapping[str, Any]) -> None:
        """Queue one record; never blocks."""
        if self._dropped:
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._drop(f"observer {self._entry['name']} is too slow and is left out from here on")

    def finish(self) -> None:
        """Deliver what is queued and close; an observer that hangs is abandoned."""
        try:
            self._records.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self.join(_CLOSE_SECONDS)
        if self.is_alive():
            self._drop(f"observer {self._entry['name']} did not finish within {_CLOSE_SECONDS:.0f} s; abandoned")

    def _drop(self, text: str) -> None:
        # The flag first: the warning is an event itself, which comes back through `put`.
        already, self._dropped = self._dropped, True
        if not already:
            self._warn(text)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class Observers:
    """All observers of a run; on rank 0 only."""

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        *,
        run_id: str,
        run_dir: Path,
        recipe: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._threads = [ObserverThread(entry, (run_id, run_dir, recipe), warn) for entry in entries]

    def start(self) -> None:
        """Open all observers, in the background."""
        for thread in self._threads:
            thread.start()

    def put(self, record: Mapping[str, Any]) -> None:
        """Forward one record to all."""
        for thread in self._threads:
            thread.put(record)

    def finish(self) -> None:
        """Flush and close all; returns when they are done or given up."""
        for thread in self._threads:
            thread.finish()
