"""A grid of charts that are looked at together: one part of X, one crosshair, one smoothing."""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from nexa.tui.charts.chart import Chart, Line, Picture
from nexa.tui.charts.curves import AXES, ChartData, Curves
from nexa.tui.charts.view import WEIGHTS, ChartView
from nexa.tui.keys import bindings

_LEAST_ROWS = 9


class ChartsPane(VerticalScroll, can_focus=True):
    """Charts of one run, as many columns as fit.

    empty: what to say before there are any. axes: what X can be.
    """

    ALLOW_MAXIMIZE = True
    BINDINGS = bindings("charts")
    SHOW_RAW: ClassVar[bool] = True
    """Whether a smoothed line has its own values behind it."""

    DEFAULT_CSS = """
    ChartsPane { layout: grid; grid-gutter: 0 1; scrollbar-size-vertical: 1; }
    ChartsPane > .nothing { padding: 1 2; color: $text-muted; }
    """

    class Changed(Message):
        """The view was changed by a person. smoothing: whether the curves have to be smoothed anew."""

        def __init__(self, pane: ChartsPane, *, smoothing: bool = False) -> None:
            super().__init__()
            self.pane = pane
            self.smoothing = smoothing

        @property
        def control(self) -> ChartsPane:
            """The pane, for `@on` selectors."""
            return self.pane

    def __init__(self, *, id: str | None = None, empty: str = "no metrics yet", axes: tuple[str, ...] = AXES) -> None:
        super().__init__(id=id)
        self._axes = axes
        self.view = ChartView()
        self.curves = Curves()
        self._empty = empty

    def compose(self) -> ComposeResult:
        """What is said before there are charts."""
        yield Static(self._empty, classes="nothing")

    def on_resize(self) -> None:
        """Arrange the charts in columns that fit."""
        self._arrange()

    def _arrange(self) -> None:
        charts = len(self.query(Chart))
        width, height = self.size
        columns = max(1, min(charts or 1, width // 56, 4))
        # Two charts side by side are better than one wide and one missing.
        rows = -(-max(1, charts) // columns)
        each = max(_LEAST_ROWS, height // rows)
        self.styles.grid_size_columns = columns
        self.styles.grid_rows = str(each)

    def update(self, curves: Curves) -> None:
        """Show these curves; charts are made and removed as metrics come and go."""
        self.curves = curves
        names = [chart.name for chart in curves.charts]
        present = [chart.chart_name for chart in self.query(NamedChart)]
        if names != present:
            with self.app.batch_update():
                self.remove_children()
                self.mount(*(NamedChart(name) for name in names) if names else [Static(self._empty, classes="nothing")])
                self._arrange()
            self.call_after_refresh(self.redraw)
            return
        self.redraw()

    def redraw(self) -> None:
        """Draw all charts as the view says."""
        extent = self.curves.extent(self.view.axis)
        low, high = self.view.limits(extent)
        for widget, data in zip(self.query(NamedChart), self.curves.charts, strict=False):
            widget.draw(
                Picture(
                    title=data.name,
                    lines=self.lines_of(data),
                    faint=self.SHOW_RAW,
                    axis=self.view.axis,
                    low=low,
                    high=high,
                    log_y=self.view.log_y,
                    marks=self.curves.resumes[self.view.axis],
                    inspected=self.view.inspected,
                )
            )

    def lines_of(self, data: ChartData) -> list[Line]:
        """The lines that a chart draws."""
        lines = []
        if data.training is not None:
            lines.append(Line(data.training, "", "chart-1"))
        if data.evaluation is not None:
            lines.append(Line(data.evaluation, "eval" if data.training else "", "chart-2", dots=True))
        return lines

    def status(self) -> str:
        """The view in words."""
        words = [f"x: {self.view.axis}", f"smoothing {WEIGHTS[self.view.smoothing]:g}"]
        if self.view.log_y:
            words.append("log-Y")
        if self.view.low is not None:
            words.append("zoomed, 0 resets")
        if self.curves.malformed:
            words.append(f"{self.curves.malformed} unreadable lines")
        return " · ".join(words)

    def _changed(self, *, smoothing: bool = False) -> None:
        if not smoothing:
            self.redraw()
        self.post_message(self.Changed(self, smoothing=smoothing))

    def action_zoom(self, direction: int) -> None:
        """Show less (−1) or more (+1) of X."""
        self.view.zoom(direction, self.curves.extent(self.view.axis))
        self._changed()

    def action_pan(self, direction: int) -> None:
        """Move along X."""
        self.view.pan(direction, self.curves.extent(self.view.axis))
        self._changed()

    def action_reset(self) -> None:
        """Show all of X."""
        self.view.reset()
        self._changed()

    def action_smooth(self, direction: int) -> None:
        """More (+1) or less (−1) smoothing."""
        self.view.smooth(direction)
        self._changed(smoothing=True)

    def action_log_y(self) -> None:
        """Logarithmic Y or linear."""
        self.view.log_y = not self.view.log_y
        self._changed()

    def action_axis(self) -> None:
        """The next X."""
        if len(self._axes) > 1:
            self.view.next_axis()
            self._changed()

    def action_inspect(self) -> None:
        """Show the crosshair at the newest point drawn, or take it away."""
        if self.view.inspected is not None:
            self.view.inspected = None
        else:
            self.view.inspected = self.view.limits(self.curves.extent(self.view.axis))[1]
        self._changed()

    def on_key(self, event: events.Key) -> None:
        """With the crosshair, arrows move it point by point; Escape takes it away."""
        if self.view.inspected is None:
            return
        moves = {"left": -1, "right": 1, "shift+left": -10, "shift+right": 10}
        if event.key in moves:
            event.stop()
            event.prevent_default()
            self._move_crosshair(moves[event.key])
        elif event.key == "escape":
            event.stop()
            self.action_inspect()

    def _move_crosshair(self, points: int) -> None:
        """Move by so many points of the first curve, by whole columns where they lie closer."""
        curve = next((curve for chart in self.curves.charts for curve in chart.curves), None)
        if curve is None or self.view.inspected is None:
            return
        x = curve.x[self.view.axis]
        low, high = self.view.limits(self.curves.extent(self.view.axis))
        column = (high - low) / max(1, self.query(Chart).first().size.width)
        index = curve.nearest(self.view.axis, self.view.inspected) or 0
        target = float(x[max(0, min(len(x) - 1, index + points))])
        if abs(target - self.view.inspected) < column * abs(points):
            target = self.view.inspected + column * points
        self.view.inspected = max(low, min(high, target))
        self._changed()

    @on(Chart.Scrolled)
    def _scrolled(self, event: Chart.Scrolled) -> None:
        self.view.zoom(event.direction, self.curves.extent(self.view.axis), around=event.x)
        self._changed()

    @on(Chart.Pointed)
    def _pointed(self, event: Chart.Pointed) -> None:
        self.view.inspected = event.x
        self._changed()


class NamedChart(Chart):
    """A chart of the grid."""

    def __init__(self, chart_name: str) -> None:
        super().__init__()
        self.chart_name = chart_name
