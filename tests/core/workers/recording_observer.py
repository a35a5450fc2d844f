"""A real observer: writes what it sees to the file that its options name."""

from __future__ import annotations

import json
from pathlib import Path

from nexa.observer import Observer


class RecordingObserver(Observer):
    """Keeps every record as a line of JSON."""

    def open(self, run_id, run_dir, recipe, options) -> None:
        self._file = Path(options["path"]).open("a")  # noqa: SIM115 - closed in close()

    def event(self, record) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()
