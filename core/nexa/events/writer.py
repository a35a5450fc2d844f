"""Writes a run's events: one JSON object a line, appended in one system call each.

Records have "ts" (unix seconds, never decreasing within a file) and "type"; nexa.events lists the
types. Standard library only: workers in other environments write events too.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nexa.errors import WorkerError


class EventWriter:
    """The only writer of one event file; safe to use from several threads.

    listener: called with each record after it is written. clean: applied to every text value, to
    remove secrets. Raises WorkerError when the file exists already or can't be created.
    """

    def __init__(
        self,
        path: Path,
        *,
        listener: Callable[[Mapping[str, Any]], None] | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.path = path
        self._listener = listener
        self._clean = clean
        self._lock = threading.Lock()
        self._last_ts = 0.0
        self._torn = False
        self._reported: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # O_EXCL: a second writer of the same file is a mistake that must not go unseen.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise _write_failure(path, error) from error

    def write(self, type: str, /, **fields: Any) -> None:
        """Append one record, visible to readers when this returns.

        Numbers that JSON lacks (NaN, infinities) become null, and a `message` record says so once
        per field. Raises WorkerError, naming the disk, when the record can't be written.
        """
        not_finite: list[str] = []
        with self._lock:
            self._last_ts = max(time.time(), self._last_ts)
            record = {"ts": self._last_ts, "type": type, **fields}
            line = self._encode(record, not_finite)
            self._append(line)
        if self._listener is not None:
            self._listener(record)
        new = [name for name in not_finite if name not in self._reported]
        if new:
            self._reported.update(new)
            text = f"{', '.join(new)} is not a finite number; recorded as null"
            self.write("message", level="warning", text=text)

    def close(self) -> None:
        """Close the file; further writes raise WorkerError."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _encode(self, record: dict[str, Any], not_finite: list[str]) -> bytes:
        """Encode one line; changes `record` to what is written."""
        for name, value in record.items():
            if isinstance(value, str):
                record[name] = self._clean(value)
        try:
            line = json.dumps(record, allow_nan=False, separators=(",", ":"))
        except ValueError:
            record.update(_finite(record, "", not_finite))
            line = json.dumps(record, separators=(",", ":"))
        if "\\ud" in line:
            # A lone surrogate is no text, and strict readers refuse the whole line for it.
            record.update(_well_formed(record))
            line = json.dumps(record, separators=(",", ":"))
        return line.encode("ascii") + b"\n"

    def _append(self, line: bytes) -> None:
        if self._descriptor < 0:
            raise WorkerError(f"events can't be written to {self.path}: the writer is closed")
        # A line torn by an earlier failure is ended first, so that it spoils no other.
        data = b"\n" + line if self._torn else line
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._torn = written < len(data)
                data = data[written:]
        except OSError as error:
            raise _write_failure(self.path, error) from error


def _write_failure(path: Path, error: OSError) -> WorkerError:
    return WorkerError(
        f"events can't be written to {path}: {error.strerror or error}",
        hint=f"free space on (or make writable) {path.parent}, then: nexa resume {path.parent.parent.name}",
    )


def _finite(value: Any, name: str, not_finite: list[str]) -> Any:
    """Replace NaN and infinities by None, noting the dotted names of their fields."""
    if isinstance(value, float) and not math.isfinite(value):
        not_finite.append(name)
        return None
    if isinstance(value, Mapping):
        return {key: _finite(child, f"{name}.{key}" if name else str(key), not_finite) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child, name, not_finite) for child in value]
    return value


def _well_formed(value: Any) -> Any:
    """Replace lone surrogates in all text by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_well_formed(key): _well_formed(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_well_formed(child) for child in value]
    return value
