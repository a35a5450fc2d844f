"""Reads event files while they grow: each poll costs only what is new since the last.

A line without its newline is a write in progress (or torn by a kill) and waits until it is whole;
lines that are no JSON object are counted and skipped. A file that was replaced or cut is read anew.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Record = TypeVar("Record")

_CHUNK_BYTES = 1 << 20
_FINGERPRINT_BYTES = 64


class LineReader:
    """Gives the new whole lines of one growing file, in blocks of bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarts = 0
        """How often the file was found replaced or cut, and reading began again."""
        self._offset = 0
        self._file_id: tuple[int, int] | None = None
        self._fingerprint = b""

    def blocks(self) -> Iterator[bytes]:
        """Yield what was added since the last call, cut at line ends; nothing when nothing is new.

        A missing file is an empty one.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        if status.st_size == self._offset and self._file_id == (status.st_dev, status.st_ino):
            return
        with self.path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            self._restart_if_replaced(file.fileno(), status)
            while self._offset < status.st_size:
                block = self._next_block(file.fileno())
                if not block:
                    return
                yield block

    def seek(self, offset: int) -> None:
        """Begin reading at `offset`, which is the start of a line, instead of at the start of the file."""
        self._offset = offset

    def remainder(self) -> bytes:
        """Return what stands after the last whole line, without counting it as read."""
        try:
            with self.path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), _CHUNK_BYTES, self._offset)
        except FileNotFoundError:
            return b""

    def _restart_if_replaced(self, descriptor: int, status: os.stat_result) -> None:
        file_id = (status.st_dev, status.st_ino)
        if self._file_id is not None:
            before = os.pread(descriptor, len(self._fingerprint), self._offset - len(self._fingerprint))
            if file_id != self._file_id or status.st_size < self._offset or before != self._fingerprint:
                self.restarts += 1
                self._offset = 0
                self._fingerprint = b""
        self._file_id = file_id

    def _next_block(self, descriptor: int) -> bytes:
        size = _CHUNK_BYTES
        while True:
            data = os.pread(descriptor, size, self._offset)
            end = data.rfind(b"\n") + 1
            if end:
                break
            if len(data) < size:
                return b""
            size *= 2
        self._offset += end
        self._fingerprint = data[max(0, end - _FINGERPRINT_BYTES) : end]
        return data[:end]


class EventReader:
    """Reads the records of one event file as dictionaries."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)
        self._decoder = msgspec.json.Decoder(dict[str, Any])
        self.malformed = 0
        """Lines so far that held no JSON object."""

    @property
    def restarts(self) -> int:
        """How often the file was found replaced or cut, and reading began again."""
        return self._lines.restarts

    def poll(self) -> list[dict[str, Any]]:
        """Return the records added since the last call, oldest first."""
        records: list[dict[str, Any]] = []
        with collector_paused():
            for block in self._lines.blocks():
                decoded, malformed = decode_lines(self._decoder, block)
                self.malformed += malformed
                records += decoded
        return records


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cycle collector off while many records, which hold no cycles, come into being.

    Its passes over ever more live objects would otherwise take longer than the decoding.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def decode_lines(decoder: msgspec.json.Decoder[Record], block: bytes) -> tuple[list[Record], int]:
    """Decode a block of lines; returns the records and the number of lines that are none."""
    try:
        return decoder.decode_lines(block), 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    records: list[Record] = []
    malformed = 0
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            malformed += 1
    return records, malformed


def read_tail(path: Path, *, max_bytes: int = 65536) -> list[dict[str, Any]]:
    """Return the records in the last `max_bytes` of a file, oldest first; empty when it is absent."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), max_bytes, max(0, size - max_bytes))
    except OSError:
        return []
    if size > max_bytes:
        data = data[data.find(b"\n") + 1 :]
    data = data[: data.rfind(b"\n") + 1]
    return decode_lines(_TAIL_DECODER, data)[0] if data else []


_TAIL_DECODER = msgspec.json.Decoder(dict[str, Any])
