"""The events tab: what happened in the run, newest first."""

from __future__ import annotations

import time

from nexa.tui.data.events import HappenedEvent
from nexa.tui.widgets.table import Column, RowTable

_COLOURS = {"error": "error", "warning": "warning", "debug": "text-muted"}


def _clock(event: HappenedEvent) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(event.ts))


def _colour(event: HappenedEvent) -> str:
    return _COLOURS.get(event.level, "")


def events_table(*, id: str) -> RowTable[HappenedEvent]:
    """The table of events."""
    columns: list[Column[HappenedEvent]] = [
        Column(name="when", width=14, text=_clock, colour=lambda event: "text-muted", importance=3),
        Column(name="try-rank", width=8, text=lambda event: event.source, importance=1),
        Column(name="what", width=10, text=lambda event: event.type, colour=_colour, importance=4),
        Column(name="text", width=0, text=lambda event: event.text, colour=_colour, importance=5),
    ]
    return RowTable(columns, key=lambda event: f"{event.ts}-{event.source}-{event.text}", empty="no events yet", id=id)
