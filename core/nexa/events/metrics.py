"""Metrics of a run in columns: one array a series, built as the event files grow."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import isnan, nan
from pathlib import Path

import msgspec

from nexa.events.reader import LineReader, collector_paused, decode_lines


class _Line(msgspec.Struct, gc=False):
    """The part of an event record that a metric needs; other fields are skipped undecoded."""

    type: str
    ts: float = 0.0
    step: int | None = None
    values: dict[str, float | None] | None = None


class MetricTable:
    """Points of one kind in columns of equal length; NaN marks a value that is no number or was not recorded."""

    def __init__(self) -> None:
        self.ts = array("d")
        """Unix seconds of each point."""
        self.steps = array("q")
        """Optimizer step of each point."""
        self.columns: dict[str, array[float]] = {}
        """Values by name."""
        self.nulls: dict[str, array[int]] = {}
        """By name, the points recorded as null, which is how NaN and infinity are written; ascending."""

    def __len__(self) -> int:
        return len(self.steps)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of one series, without the points that lack it."""
        column = self.columns.get(name)
        if column is None:
            return [], []
        points = [(step, value) for step, value in zip(self.steps, column, strict=True) if not isnan(value)]
        return [step for step, _ in points], [value for _, value in points]

    def rows(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Yield (step, unix seconds, recorded values) of every point, oldest first."""
        for index, step in enumerate(self.steps):
            values = {name: column[index] for name, column in self.columns.items() if not isnan(column[index])}
            yield step, self.ts[index], values

    def extend(self, ts: Sequence[float], steps: Sequence[int], values: Sequence[Mapping[str, float | None]]) -> None:
        """Append points, given as three sequences of equal length."""
        length = len(self)
        self.ts.extend(array("d", ts))
        self.steps.extend(array("q", steps))
        for name, block in _columns(values).items():
            column = self.columns.setdefault(name, array("d"))
            column.extend(_absent(length - len(column)))
            numbers, nulls = _column(block)
            column.extend(numbers)
            if nulls:
                self.nulls.setdefault(name, array("q")).extend(length + index for index in nulls)
        for column in self.columns.values():
            column.extend(_absent(len(self) - len(column)))

    def truncate_from(self, step: int) -> None:
        """Drop the points at the end whose step is `step` or later."""
        length = len(self)
        while length and self.steps[length - 1] >= step:
            length -= 1
        del self.ts[length:]
        del self.steps[length:]
        for column in self.columns.values():
            del column[length:]
        for rows in self.nulls.values():
            while rows and rows[-1] >= length:
                rows.pop()


def _absent(count: int) -> array[float]:
    return array("d", [nan]) * max(0, count)


def _columns(points: Sequence[Mapping[str, float | None]]) -> dict[str, Sequence[float | None]]:
    """Turn points into columns, NaN where a point lacks a name."""
    names = tuple(points[0]) if points else ()
    # Nearly always all points have the same names, and then no loop in Python is needed.
    if list(map(tuple, points)).count(names) == len(points):
        return dict(zip(names, zip(*(point.values() for point in points), strict=True), strict=True))
    return {name: [point.get(name, nan) for point in points] for name in dict.fromkeys(chain.from_iterable(points))}


def _column(values: Sequence[float | None]) -> tuple[array[float], list[int]]:
    """The values with NaN for None, and where None was."""
    try:
        return array("d", values), []  # type: ignore[arg-type]
    except TypeError:
        nulls = [index for index, value in enumerate(values) if value is None]
        return array("d", [nan if value is None else value for value in values]), nulls


class MetricsReader:
    """Metrics and evaluations of a run over all its attempts, as one history.

    A resumed attempt repeats steps that its predecessor had already taken; the repeated part of the
    predecessor is dropped, since it led to no checkpoint.
    """

    def __init__(self, events_dir: Path) -> None:
        self._events_dir = events_dir
        self._attempt = 0
        self._lines: LineReader | None = None
        self._restarts = 0
        self._decoder = msgspec.json.Decoder(_Line)
        self._begins = {"metrics": True, "eval": True}
        self.malformed = 0
        """Lines so far that held no event."""
        self.resumes: list[int] = []
        """First optimizer step that each attempt after the first logged."""
        self.training = MetricTable()
        """The `metrics` events."""
        self.evaluation = MetricTable()
        """The `eval` events."""

    def poll(self) -> bool:
        """Read what is new; returns whether there was anything."""
        changed = False
        while True:
            if self._lines is not None:
                changed |= self._read(self._lines)
            if not (self._events_dir / f"{self._attempt + 1}-0.jsonl").exists():
                following = self._following_attempt()
                if following is None:
                    return changed
                self._attempt = following - 1
            self._attempt += 1
            self._lines = LineReader(self._events_dir / f"{self._attempt}-0.jsonl")
            self._begins = {"metrics": True, "eval": True}

    def _following_attempt(self) -> int | None:
        """The next attempt that wrote events; one that failed at once may have written none."""
        numbers = (path.name.partition("-")[0] for path in self._events_dir.glob("*-0.jsonl"))
        return min(
            (int(number) for number in numbers if number.isdigit() and int(number) > self._attempt), default=None
        )

    def _read(self, lines: LineReader) -> bool:
        changed = False
        for block in lines.blocks():
            with collector_paused():
                records, malformed = decode_lines(self._decoder, block)
                self.malformed += malformed
                for kind, table in (("metrics", self.training), ("eval", self.evaluation)):
                    changed |= self._append(kind, table, records, replaced=lines.restarts != self._restarts)
            self._restarts = lines.restarts
        return changed

    def _append(self, kind: str, table: MetricTable, records: list[_Line], *, replaced: bool) -> bool:
        points = [record for record in records if record.type == kind and record.values and record.step is not None]
        if not points:
            return False
        steps = [record.step for record in points if record.step is not None]
        if replaced or self._begins[kind]:
            if kind == "metrics" and self._begins[kind] and len(table):
                self.resumes.append(steps[0])
            self._begins[kind] = False
            table.truncate_from(steps[0])
        table.extend([record.ts for record in points], steps, [record.values or {} for record in points])
        return True
