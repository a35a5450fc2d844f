"""The system tab: meters of every rank now, and of rank 0 over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from nexa import units
from nexa.tui.charts.curves import ChartData, Curve, Curves
from nexa.tui.charts.pane import ChartsPane
from nexa.tui.data.events import Readings
from nexa.tui.data.run import RunSnapshot
from nexa.tui.themes import colour_of

_BAR_CELLS = 12
_HOST_CELLS = 12
_WIDE = 110
"""Columns from which on the worker's own part of the machine has room beside the whole."""
_TITLES = {
    "cpu_percent": "CPU of the worker, % of a core",
    "rss_bytes": "memory of the worker",
    "machine_cpu_percent": "CPU of the machine, %",
}


class SystemTab(Vertical):
    """A line for every rank, and charts of the first."""

    DEFAULT_CSS = """
    SystemTab > #ranks { text-wrap: nowrap; height: auto; max-height: 40%; padding: 0 1; scrollbar-size-vertical: 1; }
    SystemTab > ChartsPane { height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._drawn: tuple[str, int, float] | None = None
        """Which meters the charts show: of which run, how many, the newest's moment."""

    def compose(self) -> ComposeResult:
        """The parts."""
        with VerticalScroll(id="ranks"):
            yield Static("")
        yield ChartsPane(empty="no meters yet; workers send them every ten seconds", axes=("time",))

    def on_mount(self) -> None:
        """Meters are drawn as they are."""
        view = self.query_one(ChartsPane).view
        view.axis, view.smoothing = "time", 0

    def show(self, snapshot: RunSnapshot) -> None:
        """Show a snapshot."""
        text = Text("\n", no_wrap=True, overflow="ellipsis").join(
            self._line(rank, readings) for rank, readings in sorted(snapshot.meters.items()) if readings.latest
        )
        if text != getattr(self, "_text", None):
            self._text = text
            self.query_one("#ranks Static", Static).update(text)
        first = snapshot.meters.get(0)
        drawn = (snapshot.run_id, len(first.times), first.times[-1]) if first is not None and first.times else None
        if first is not None and drawn != self._drawn:
            self._drawn = drawn
            self.query_one(ChartsPane).update(_curves(first))

    def _line(self, rank: int, readings: Readings) -> Text:
        latest = readings.latest
        wide = self.app.size.width >= _WIDE
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"rank {rank:<3}", "bold")
        line.append(f" {readings.host[:_HOST_CELLS]:<{_HOST_CELLS}}", colour_of(self.app, "text-muted"))
        cpu = _number(latest, "machine_cpu_percent")
        own = _number(latest, "cpu_percent")
        line.append("  CPU ")
        line.append_text(self._bar(cpu))
        line.append(f" {cpu or 0:3.0f} %", "bold")
        line.append(
            f" (own {own / 100:.1f} cores)" if wide and own is not None else "", colour_of(self.app, "text-muted")
        )
        used, total = _number(latest, "machine_memory_bytes"), _number(latest, "machine_memory_total_bytes")
        line.append("  memory ")
        line.append_text(self._bar(100 * used / total if used is not None and total else None))
        line.append(f" {units.size(_number(latest, 'rss_bytes'))}", "bold")
        line.append(f" of {units.size(total)}" if total else "", colour_of(self.app, "text-muted"))
        gpus = latest.get("gpus")
        for gpu in gpus if isinstance(gpus, list) else []:
            if isinstance(gpu, dict):
                self._add_gpu(line, gpu)
        return line

    def _add_gpu(self, line: Text, gpu: Mapping[str, Any]) -> None:
        use, used, total = (
            _number(gpu, name) for name in ("utilization_percent", "memory_bytes", "memory_total_bytes")
        )
        line.append(f"\n{'':<21}  GPU ")
        line.append_text(self._bar(use))
        line.append(f" {use:.0f} %" if use is not None else " ?", "bold")
        line.append(f"  {units.size(used)} of {units.size(total)}" if used is not None else "")
        heat, power = _number(gpu, "temperature_celsius"), _number(gpu, "power_watts")
        line.append(f"  {heat:.0f} °C" if heat is not None else "", colour_of(self.app, "text-muted"))
        line.append(f"  {power:.0f} W" if power is not None else "", colour_of(self.app, "text-muted"))

    def _bar(self, percent: float | None) -> Text:
        filled = round(max(0.0, min(100.0, percent or 0.0)) / 100 * _BAR_CELLS)
        bar = Text("━" * filled, colour_of(self.app, "primary"))
        bar.append("━" * (_BAR_CELLS - filled), colour_of(self.app, "chart-faint"))
        return bar


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else None


def _curves(readings: Readings) -> Curves:
    """Meters of a rank as curves over the seconds since the first."""
    times = np.array(readings.times, dtype=np.float64)
    times = np.maximum.accumulate(times - times[0])
    x = {"time": times}
    charts = []
    for name, values in readings.series.items():
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        charts.append(ChartData(_TITLES.get(name, name), Curve(name, x, numbers)))
    return Curves(charts=charts, resumes={"time": np.empty(0)})
