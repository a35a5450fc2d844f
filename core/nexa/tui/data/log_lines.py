"""Log lines as they are shown: safe text, level, and what search and filters look for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nexa import units
from nexa.errors import UserError
from nexa.logs import show_line
from nexa.runs.logfile import offset_of_last
from nexa.tui.data.log_index import SHOWN_BYTES, LogIndex, RawLine

LEVELS = ("all", "warnings", "errors")
"""What the level filter goes through."""

_ERROR = (
    rb'"level": ?"(?:error|critical)"|^Traceback \(most recent call last\)|^[\w.]*(?:Error|Exception)(?::|$)'
    rb"|\bERROR\b|\bCRITICAL\b|\bFATAL\b"
)
_WARNING = rb'"level": ?"warning"|\bWARN(?:ING)?\b|Warning:'
ERROR_PATTERN = re.compile(_ERROR, re.MULTILINE)
"""Lines that tell of an error: our records of that level, tracebacks, names of exceptions."""
_AT_LEVEL = {"warnings": re.compile(_ERROR + b"|" + _WARNING, re.MULTILINE), "errors": ERROR_PATTERN}

_PROMISES_PLACE = re.compile(r"[\^$\\]|\(\?|[^\x00-\x7f]")


@dataclass(frozen=True)
class ShownLine:
    """A log line ready to draw: rows of safe text. level: "error", "warning" or ""."""

    number: int
    rows: tuple[str, ...]
    level: str


def shown(raw: RawLine) -> ShownLine:
    """Make a line safe and readable; what was left out of a long one is said."""
    text = show_line(raw.data.decode("utf-8", "replace").removesuffix("\r"))
    rows = [row.expandtabs(8) for row in text.split("\n")]
    if raw.size > len(raw.data):
        rows[-1] += f" … ({units.size(raw.size)} in one line)"
    level = "error" if ERROR_PATTERN.search(raw.data) else "warning" if _AT_LEVEL["warnings"].search(raw.data) else ""
    return ShownLine(raw.number, tuple(rows), level)


class Search:
    """Finds lines whose shown text matches a regular expression; lower-case patterns ignore case.

    Raises UserError for a pattern that is none.
    """

    def __init__(self, pattern: str) -> None:
        flags = 0 if any(character.isupper() for character in pattern) else re.IGNORECASE
        try:
            self.pattern = re.compile(pattern, flags)
        except re.error as error:
            raise UserError(f"{pattern!r} is no regular expression: {error}") from None
        # Bytes are looked through first, since few lines match; that can't tell where a pattern speaks of
        # the begin of the shown line, or of characters that JSON writes as escapes.
        self._bytes = None if _PROMISES_PLACE.search(pattern) else re.compile(pattern.encode(), flags)

    def find(
        self, index: LogIndex, start: int, *, backwards: bool = False, cancelled: Callable[[], bool] = lambda: False
    ) -> int | None:
        """Number of the first matching line from `start` on, or the last before it; None when there is none."""
        for first, data in index.chunks(start, backwards=backwards):
            numbers = self._candidates(first, data)
            for number in sorted(set(numbers), reverse=backwards):
                if cancelled():
                    return None
                if self.matches(index, number):
                    return number
            if cancelled():
                return None
        return None

    def _candidates(self, first: int, data: bytes) -> Iterator[int]:
        if self._bytes is None:
            yield from range(first, first + data.count(b"\n") + (not data.endswith(b"\n")))
            return
        yield from lines_matching(self._bytes, first, data)

    def matches(self, index: LogIndex, number: int) -> bool:
        """Whether a line's shown text matches."""
        raw = index.read(number, 1)
        return bool(raw) and any(self.pattern.search(row) for row in shown(raw[0]).rows)


def lines_matching(pattern: re.Pattern[bytes], first: int, data: bytes) -> Iterator[int]:
    """Numbers of the lines of a chunk in which a pattern occurs, each once, ascending."""
    number, position = first, 0
    for match in pattern.finditer(data):
        if match.start() < position:
            continue
        number += data.count(b"\n", position, match.start())
        end = data.find(b"\n", match.start())
        yield number
        if end < 0:
            return
        number, position = number + 1, end + 1


def tail(path: Path, count: int) -> list[RawLine]:
    """The last lines of a file that was not counted yet; their numbers mean nothing. Empty when it is missing."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(offset_of_last(file.fileno(), count), size - count * SHOWN_BYTES)
            data = os.pread(file.fileno(), size - begin, begin)
    except OSError:
        return []
    return [RawLine(-1, line[-SHOWN_BYTES:], len(line)) for line in data.removesuffix(b"\n").split(b"\n")]


def find_error(index: LogIndex, start: int, *, cancelled: Callable[[], bool] = lambda: False) -> int | None:
    """Number of the first line from `start` on that tells of an error; None when there is none."""
    for first, data in index.chunks(start):
        found = next(lines_matching(ERROR_PATTERN, first, data), None)
        if found is not None or cancelled():
            return found
    return None


class LevelFilter:
    """Numbers of the lines at a level, brought up to date as the file is counted."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.numbers: list[int] = []
        self._next = 0
        self._generation = 0

    def update(self, index: LogIndex, *, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Look through the lines that are new; returns whether any was added or all were forgotten."""
        changed = False
        if index.generation != self._generation:
            self._generation, self._next, self.numbers = index.generation, 0, []
            changed = True
        pattern = _AT_LEVEL[self.level]
        for first, data in index.chunks(self._next):
            # A line without its newline may still grow into one that matches.
            whole = data[: data.rfind(b"\n") + 1]
            found = list(lines_matching(pattern, first, whole))
            self.numbers += found
            changed |= bool(found)
            self._next = first + whole.count(b"\n")
            if cancelled() or len(whole) < len(data):
                break
        return changed
