"""The events of a run but for its metrics: what happened, samples, and meters; read as they are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nexa import units
from nexa.events.reader import LineReader, decode_lines
from nexa.runs.samples import SampleChange, take_sample
from nexa.text import sanitize, sanitize_line

_MOST_EVENTS = 5_000
_MOST_READINGS = 20_000
# Most lines of an event file are these; they are told apart undecoded.
_SKIPPED = (b'"type":"metrics"', b'"type":"heartbeat"', b'"type":"progress"')


@dataclass(frozen=True)
class HappenedEvent:
    """One event in words. level: "error", "warning", "info". source: attempt and rank, as in its file's name."""

    ts: float
    type: str
    level: str
    text: str
    source: str


@dataclass
class Readings:
    """Meters of one rank over time; lists of equal length, None where the machine could not tell.

    host: where it runs, as its newest `start` said. series: values by name. latest: the newest event.
    """

    host: str = ""
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_READINGS))
    series: dict[str, deque[float | None]] = field(default_factory=dict)
    latest: Mapping[str, Any] = field(default_factory=dict)

    def take(self, record: Mapping[str, Any]) -> None:
        """Add one `system` event."""
        values = _meter_values(record)
        for name in values:
            if name not in self.series:
                self.series[name] = deque([None] * len(self.times), maxlen=_MOST_READINGS)
        self.times.append(_number(record.get("ts")) or 0.0)
        for name, values_so_far in self.series.items():
            values_so_far.append(values.get(name))
        self.latest = record


class EventLog:
    """All event files of a run; for one thread at a time."""

    def __init__(self, events_dir: Path) -> None:
        self._folder = events_dir
        self._files: dict[str, LineReader] = {}
        self._decoder = msgspec.json.Decoder(dict[str, Any])
        self.events: deque[HappenedEvent] = deque(maxlen=_MOST_EVENTS)
        """The newest events, oldest first."""
        self.meters: dict[int, Readings] = {}
        """Meters by rank."""
        self.malformed = 0
        """Lines so far that held no event."""
        self._samples: dict[str, SampleChange] = {}

    def poll(self) -> bool:
        """Read what is new; returns whether there was anything to show."""
        try:
            names = sorted((path.name for path in self._folder.glob("*-*.jsonl")), key=_order)
        except OSError:
            return False
        changed = False
        for name in names:
            reader = self._files.setdefault(name, LineReader(self._folder / name))
            for block in reader.blocks():
                lines = [line for line in block.split(b"\n") if line and not any(skip in line for skip in _SKIPPED)]
                records, malformed = decode_lines(self._decoder, b"\n".join(lines) + b"\n") if lines else ([], 0)
                self.malformed += malformed
                for record in records:
                    self._take(record, name.removesuffix(".jsonl"))
                changed |= bool(records) or bool(malformed)
        return changed

    @property
    def samples(self) -> Sequence[SampleChange]:
        """What became of each prompt; texts are safe to draw."""
        return [
            SampleChange(
                prompt=sanitize(change.prompt),
                first_step=change.first_step,
                first=sanitize(change.first),
                last_step=change.last_step,
                last=sanitize(change.last),
            )
            for change in self._samples.values()
        ]

    def _take(self, record: Mapping[str, Any], source: str) -> None:
        kind = record.get("type")
        rank = source.partition("-")[2]
        if not isinstance(kind, str) or not rank.isdigit():
            return
        readings = self.meters.setdefault(int(rank), Readings())
        if kind == "system":
            readings.take(record)
            return
        if kind == "start":
            readings.host = sanitize_line(str(record.get("host") or ""))
        if kind == "sample":
            try:
                take_sample(self._samples, record)
            except (TypeError, ValueError):
                self.malformed += 1
        words = _WORDS.get(kind)
        if words is not None:
            level = str(record.get("level") or ("error" if record.get("state") == "failed" else "info"))
            text = sanitize_line(words(record))
            self.events.append(HappenedEvent(_number(record.get("ts")) or 0.0, kind, level, text, source))


def _order(name: str) -> tuple[int, int, str]:
    attempt, _, rank = name.removesuffix(".jsonl").partition("-")
    return (int(attempt) if attempt.isdigit() else 0, int(rank) if rank.isdigit() else 0, name)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _meter_values(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a `system` event by name, those of its GPUs with their number."""
    values = {name: _number(record.get(name)) for name in ("cpu_percent", "rss_bytes", "machine_cpu_percent")}
    gpus = record.get("gpus")
    for gpu in gpus if isinstance(gpus, list) else []:
        if isinstance(gpu, dict):
            name = sanitize_line(str(gpu.get("gpu", "")))
            values[f"GPU {name}, %"] = _number(gpu.get("utilization_percent"))
            values[f"GPU {name} memory, bytes"] = _number(gpu.get("memory_bytes"))
    return {name: value for name, value in values.items() if value is not None}


def _values_in_words(record: Mapping[str, Any]) -> str:
    values = record.get("values")
    if not isinstance(values, dict):
        return ""
    return "  ".join(f"{name} {units.figure(_number(value))}" for name, value in values.items())


_WORDS = {
    "start": lambda r: f"rank {r.get('rank')} of {r.get('world_size')} on {r.get('host')}, process {r.get('pid')}",
    "eval": lambda r: f"step {r.get('step')}: {_values_in_words(r)}",
    "checkpoint": lambda r: f"step {r.get('step')}: {r.get('name')}, {units.size(_number(r.get('bytes')))}",
    "message": lambda r: str(r.get("text")),
    "sample": lambda r: f"step {r.get('step')}: {r.get('prompt')} → {r.get('text')}",
    "end": lambda r: f"{r.get('state')} at step {r.get('step')} {r.get('message') or ''}".rstrip(),
}
"""By type, what an event says in words; types that are not here are not listed."""
