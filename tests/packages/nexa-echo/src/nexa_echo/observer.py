"""An observer: hears of every event and writes the metrics as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nexa.observer import Observer


class LogObserver(Observer):
    """Appends one line per metric record to `echo.log` in the run's folder."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def open(self, run_id: str, run_dir: Path, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Open the file; later attempts append."""
        self._file = (run_dir / "echo.log").open("a", encoding="utf-8")

    def event(self, record: Mapping[str, Any]) -> None:
        """Write a metric record's values; leave other records alone."""
        if self._file is not None and record["type"] == "metrics":
            values = " ".join(f"{name}={value}" for name, value in record["values"].items())
            self._file.write(f"step {record['step']}: {values}\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
