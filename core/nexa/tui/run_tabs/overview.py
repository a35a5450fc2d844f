"""The first tab: figures, the loss, what the model says, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from nexa import units
from nexa.runs.samples import SampleChange
from nexa.tui.charts.chart import Chart, Line, Picture
from nexa.tui.charts.curves import ChartData, Curves
from nexa.tui.charts.view import ChartView
from nexa.tui.data.events import Readings
from nexa.tui.data.run import RunSnapshot
from nexa.tui.themes import colour_of

_MOST_NOTES = 4


class Figure(Static):
    """One number with its name, and an addition where there is room."""

    DEFAULT_CSS = """
    Figure { width: 1fr; height: 2; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    _words = ("", "", "")
    _text: Text | None = None

    def show(self, name: str, value: str, *, more: str = "") -> None:
        """Show a value; draws only when it reads differently."""
        self._words = (name, value, more)
        self._write()

    def on_resize(self) -> None:
        """Show the addition, or no longer."""
        self._write()

    def _write(self) -> None:
        name, value, more = self._words
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{name}\n", colour_of(self.app, "text-muted"))
        text.append(value or "–", "bold")
        if more and len(value) + len(more) + 3 <= self.size.width:
            text.append(f" {more}", colour_of(self.app, "text-muted"))
        if text != self._text:
            self._text = text
            self.update(text)


class OverviewTab(Vertical):
    """Figures above; below, the loss beside samples and notes."""

    DEFAULT_CSS = """
    OverviewTab > #figures { height: 3; padding: 0 0 1 0; }
    OverviewTab > #lower { height: 1fr; }
    OverviewTab #main-chart { width: 3fr; }
    OverviewTab #words { width: 2fr; padding: 0 1; scrollbar-size-vertical: 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._words: object = None

    def compose(self) -> ComposeResult:
        """The parts."""
        with Horizontal(id="figures"):
            for _ in range(5):
                yield Figure()
        with Horizontal(id="lower"):
            yield Chart(id="main-chart")
            with VerticalScroll(id="words"):
                yield Static("")

    def show(self, snapshot: RunSnapshot, view: ChartView) -> None:
        """Show a snapshot; the chart as the view says."""
        for figure, (name, value, more) in zip(self.query(Figure), _figures(snapshot), strict=False):
            figure.show(name, value, more=more)
        self._show_chart(snapshot.curves, view)
        content = (tuple(snapshot.samples), tuple(_notes(snapshot)), self.app.theme)
        if content != self._words:
            self._words = content
            self.query_one("#words Static", Static).update(self._in_words(snapshot))

    def _show_chart(self, curves: Curves, view: ChartView) -> None:
        data = _main_chart(curves)
        chart = self.query_one("#main-chart", Chart)
        if data is None:
            chart.draw(Picture(title="loss: no metrics yet", lines=()))
            return
        low, high = view.limits(curves.extent(view.axis))
        lines = [Line(data.training, "", "chart-1")] if data.training else []
        if data.evaluation is not None:
            lines.append(Line(data.evaluation, "eval", "chart-2", dots=True))
        chart.draw(
            Picture(
                title=data.name,
                lines=lines,
                axis=view.axis,
                low=low,
                high=high,
                log_y=view.log_y,
                marks=curves.resumes[view.axis],
                inspected=view.inspected,
            )
        )

    def _in_words(self, snapshot: RunSnapshot) -> Table:
        """Notes that need attention, then samples."""
        muted, heading = colour_of(self.app, "text-muted"), f"bold {colour_of(self.app, 'accent')}"
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(width=7)
        table.add_column(ratio=1)
        notes = list(_notes(snapshot))
        for level, text in notes:
            table.add_row(Text(level, f"bold {colour_of(self.app, _NOTE_COLOURS.get(level, 'primary'))}"), Text(text))
        if notes:
            table.add_row("", "")
        if snapshot.samples:
            table.add_row(Text("samples", heading), Text(_sample_steps(snapshot.samples), muted))
        for change in snapshot.samples:
            table.add_row(Text("asked", muted), Text(_flowing(change.prompt), "bold"))
            if change.last_step > change.first_step:
                table.add_row(Text("before", muted), Text(_flowing(change.first), muted))
            table.add_row(Text("now", muted), Text(_flowing(change.last)))
            table.add_row("", "")
        return table


_NOTE_COLOURS = {"error": "error", "warning": "warning"}


def _figures(snapshot: RunSnapshot) -> Iterator[tuple[str, str, str]]:
    """Names, values and additions of the five figures."""
    metrics = snapshot.status.metrics
    best = _best_evaluation(snapshot.curves)
    yield "loss", units.figure(metrics.get("loss")), _named("eval", metrics.get("eval_loss"))
    yield "best eval loss", units.figure(best[0]) if best else "", f"step {best[1]:.0f}" if best else ""
    rate = metrics.get("tokens_per_second")
    yield "tokens/s", "" if rate is None else f"{rate:,.0f}", _seconds_a_step(metrics.get("step_seconds"))
    yield "memory", *_memory(snapshot)
    yield "learning rate", units.figure(metrics.get("lr")), _named("norm", metrics.get("grad_norm"))


def _named(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {units.figure(value)}"


def _seconds_a_step(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms/step" if seconds < 1 else f"{seconds:.3g} s/step"


def _memory(snapshot: RunSnapshot) -> tuple[str, str]:
    """Memory of the model's device where it is known, else of the processes."""
    readings: Readings | None = snapshot.meters.get(0)
    latest = readings.latest if readings else {}
    gpus = latest.get("gpus")
    if isinstance(gpus, list) and gpus and isinstance(gpus[0], dict):
        used, total = gpus[0].get("memory_bytes"), gpus[0].get("memory_total_bytes")
        if isinstance(used, int) and isinstance(total, int):
            return units.size(used), f"of {units.size(total)}"
    peak = snapshot.status.metrics.get("memory_bytes")
    if peak:
        return units.size(peak), ""
    held = latest.get("rss_bytes")
    return (units.size(held), "in processes") if isinstance(held, int) else ("", "")


def _best_evaluation(curves: Curves) -> tuple[float, float] | None:
    """Least eval loss and its step."""
    for data in curves.charts:
        if data.name == "loss" and data.evaluation is not None:
            points = zip(data.evaluation.values.tolist(), data.evaluation.x["step"].tolist(), strict=True)
            return min((point for point in points if isfinite(point[0])), default=None)
    return None


def _main_chart(curves: Curves) -> ChartData | None:
    return next((data for data in curves.charts if data.name == "loss"), curves.charts[0] if curves.charts else None)


def _notes(snapshot: RunSnapshot) -> Iterator[tuple[str, str]]:
    """What needs attention: how it ended, then the newest warnings and errors of this attempt."""
    if snapshot.trouble:
        yield "error", snapshot.trouble
    attempt = str(snapshot.status.attempt)
    seen: set[str] = set()
    for event in snapshot.events:
        if event.level in ("warning", "error") and event.source.partition("-")[0] == attempt and event.text not in seen:
            seen.add(event.text)
            if len(seen) <= _MOST_NOTES:
                yield event.level, event.text


def _sample_steps(samples: Sequence[SampleChange]) -> str:
    first, last = min(c.first_step for c in samples), max(c.last_step for c in samples)
    return f"after step {last}" if first == last else f"after step {first} and after step {last}"


def _flowing(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"
