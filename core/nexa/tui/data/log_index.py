"""Lines of a log file of any size by their number, without holding the file.

The file is counted block by block: for each block of 64 KiB, how many lines begin before it. A line
is then found by its block, with one small read. Counting goes on while the file grows; a file that
was replaced or cut is counted anew.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 16
SHOWN_BYTES = 1 << 14
"""Of a longer line only so much is read: its beginning, or its end where it redraws itself."""

_CHUNK_BYTES = 1 << 22
_FINGERPRINT_BYTES = 64


@dataclass(frozen=True)
class RawLine:
    """One line as bytes, without its newline. size: of the whole line, of which `data` may be a part."""

    number: int
    data: bytes
    size: int


class LogIndex:
    """Index of one file; `scan` in one thread, reading in any.

    generation: how often the file was found replaced or cut; line numbers of another generation mean
    nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.lines = 0
        """Whole lines counted so far, and one more where the counted part does not end in a newline."""
        self.scanned = 0
        """Bytes counted so far."""
        self.size = 0
        """Bytes of the file when last looked at."""
        self._newlines = 0
        self._open_line = False
        self._before = array("q", [0])
        self._identity: tuple[int, int] | None = None
        self._fingerprint = b""

    @property
    def complete(self) -> bool:
        """Whether everything that is there has been counted."""
        return self.scanned >= self.size

    def scan(self, *, max_bytes: int | None = None) -> bool:
        """Count what is new, at most `max_bytes`; returns whether anything was.

        A missing file is an empty one.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return self._reset_if(self.scanned > 0)
        try:
            status = os.fstat(descriptor)
            changed = self._reset_if(self._is_replaced(descriptor, status))
            self._identity = (status.st_dev, status.st_ino)
            self.size = status.st_size
            return self._count(descriptor, max_bytes) or changed
        finally:
            os.close(descriptor)

    def _is_replaced(self, descriptor: int, status: os.stat_result) -> bool:
        if self._identity is None or not self.scanned:
            return False
        if (status.st_dev, status.st_ino) != self._identity or status.st_size < self.scanned:
            return True
        begin = self.scanned - len(self._fingerprint)
        return os.pread(descriptor, len(self._fingerprint), begin) != self._fingerprint

    def _reset_if(self, replaced: bool) -> bool:
        if replaced:
            self.generation += 1
            self.lines = self.scanned = self.size = self._newlines = 0
            self._before = array("q", [0])
            self._fingerprint, self._open_line = b"", False
        return replaced

    def _count(self, descriptor: int, max_bytes: int | None) -> bool:
        budget = max_bytes if max_bytes is not None else self.size
        begin = self.scanned
        while budget > 0 and self.scanned < self.size:
            # Reads end at block borders, so that each border's count is known.
            want = min(_CHUNK_BYTES, self.size - self.scanned)
            want = min(want, _CHUNK_BYTES - self.scanned % BLOCK_BYTES)
            data = os.pread(descriptor, want, self.scanned)
            if not data:
                break
            self._take(data)
            budget -= len(data)
        return self.scanned > begin

    def _take(self, data: bytes) -> None:
        offset = 0
        while offset < len(data):
            room = BLOCK_BYTES - self.scanned % BLOCK_BYTES
            end = min(len(data), offset + room)
            self._newlines += data.count(b"\n", offset, end)
            self.scanned += end - offset
            offset = end
            if self.scanned % BLOCK_BYTES == 0:
                self._before.append(self._newlines)
        self._fingerprint = (self._fingerprint + data[-_FINGERPRINT_BYTES:])[-_FINGERPRINT_BYTES:]
        self._open_line = not data.endswith(b"\n")
        self.lines = self._newlines + self._open_line

    def read(self, first: int, count: int) -> list[RawLine]:
        """Lines `first` to `first + count` as far as they were counted; long ones in part."""
        first = max(0, first)
        last = min(first + count, self.lines)
        if first >= last:
            return []
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return []
        try:
            found = []
            position = self._offset_of(descriptor, first)
            for number in range(first, last):
                end = self._end_of_line(descriptor, position, number)
                found.append(RawLine(number, _shown_part(descriptor, position, end), end - position))
                position = end + 1
            return found
        finally:
            os.close(descriptor)

    def _offset_of(self, descriptor: int, number: int) -> int:
        """Offset at which a line begins."""
        if number == 0:
            return 0
        # The block in which newline `number` (counted from one) lies.
        block = bisect_right(self._before, number - 1) - 1
        data = os.pread(descriptor, BLOCK_BYTES, block * BLOCK_BYTES)
        missing = number - self._before[block]
        cut = -1
        for _ in range(missing):
            cut = data.find(b"\n", cut + 1)
            if cut < 0:
                return self.scanned
        return block * BLOCK_BYTES + cut + 1

    def _end_of_line(self, descriptor: int, begin: int, number: int) -> int:
        """Offset of the newline that ends a line, of the counted end for one without."""
        data = os.pread(descriptor, 4096, begin)
        cut = data.find(b"\n")
        if cut >= 0:
            return begin + cut
        if number >= self._newlines:
            return self.scanned
        return self._offset_of(descriptor, number + 1) - 1

    def chunks(self, first: int, *, backwards: bool = False) -> Iterator[tuple[int, bytes]]:
        """Whole lines from line `first` on, or before it, as (number of the chunk's first line, bytes)."""
        step = (1 << 20) // BLOCK_BYTES
        blocks = -(-self.scanned // BLOCK_BYTES)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return
        try:
            begin = self._offset_of(descriptor, min(first, self.lines))
            if not backwards:
                number = first
                while begin < self.scanned:
                    end = self._line_border(descriptor, min(self.scanned, begin + (1 << 20)))
                    data = os.pread(descriptor, end - begin, begin)
                    if not data:
                        return
                    yield number, data
                    number += data.count(b"\n")
                    begin = end
                return
            block = min(blocks, begin // BLOCK_BYTES + 1)
            end = begin
            while end > 0:
                block = max(0, block - step)
                number = self._before[block] + (1 if block else 0)
                start = self._offset_of(descriptor, number) if block else 0
                if start < end:
                    yield (number if block else 0), os.pread(descriptor, end - start, start)
                    end = start
                elif block == 0:
                    return
        finally:
            os.close(descriptor)

    def _line_border(self, descriptor: int, offset: int) -> int:
        """The first line begin at or after an offset; the counted end where none follows."""
        if offset >= self.scanned:
            return self.scanned
        while offset < self.scanned:
            data = os.pread(descriptor, BLOCK_BYTES, offset)
            cut = data.find(b"\n")
            if cut >= 0 or not data:
                return offset + cut + 1 if cut >= 0 else self.scanned
            offset += len(data)
        return self.scanned


def _shown_part(descriptor: int, begin: int, end: int) -> bytes:
    size = end - begin
    if size <= SHOWN_BYTES:
        return os.pread(descriptor, size, begin)
    head, end_part = (os.pread(descriptor, SHOWN_BYTES, at) for at in (begin, end - SHOWN_BYTES))
    # A progress bar redraws itself after carriage returns; the last drawing counts.
    return end_part if b"\r" in head or b"\r" in end_part else head
