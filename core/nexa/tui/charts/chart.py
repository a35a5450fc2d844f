"""One chart: lines on a high-resolution canvas, with ticks, marks and a crosshair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from rich.cells import cell_len
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual_hires_canvas import Canvas, HiResMode

from nexa import units
from nexa.tui.charts.curves import Curve
from nexa.tui.charts.decimate import Floats, decimate
from nexa.tui.charts.view import log_ticks, nice_ticks, x_label, y_label
from nexa.tui.themes import colour_of

_LEFT = 7
"""Cells left of the plot: ticks of Y, and the axis."""


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart. label: in the crosshair's words. colour: a variable of the theme.

    dots: whether its points are marked one by one, as for evaluations.
    """

    curve: Curve
    label: str
    colour: str
    dots: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """All that a chart draws.

    axis: what X is. low, high: the part of it drawn. marks: X of vertical lines, such as restarts.
    inspected: X of the crosshair, None without one. faint: whether the unsmoothed values are drawn too.
    """

    title: str
    lines: Sequence[Line]
    axis: str = "step"
    low: float = 0.0
    high: float = 1.0
    log_y: bool = False
    marks: Floats = field(default_factory=lambda: np.empty(0))
    inspected: float | None = None
    faint: bool = True

    def same_as(self, other: Picture | None) -> bool:
        """Whether another picture is drawn in the same way; curves are never changed, so the same ones are equal."""
        return other is not None and self._scalars() == other._scalars() and np.array_equal(self.marks, other.marks)

    def _scalars(self) -> tuple[object, ...]:
        lines = tuple((id(line.curve), line.label, line.colour, line.dots) for line in self.lines)
        return (self.title, lines, self.axis, self.low, self.high, self.log_y, self.inspected, self.faint)


class Chart(Canvas, can_focus=True):
    """Draws a `Picture`; redraws itself when its size or the theme changes."""

    DEFAULT_CSS = """
    Chart { height: 1fr; width: 1fr; background: $background; }
    Chart:focus { background: $surface; }
    """

    class Scrolled(Message):
        """The wheel was turned at an X of the plot. direction: −1 to zoom in, +1 to zoom out."""

        def __init__(self, x: float, direction: int) -> None:
            super().__init__()
            self.x = x
            self.direction = direction

    class Pointed(Message):
        """An X of the plot was clicked."""

        def __init__(self, chart: Chart, x: float) -> None:
            super().__init__()
            self.chart = chart
            self.x = x

        @property
        def control(self) -> Chart:
            """The chart, for `@on` selectors."""
            return self.chart

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(10, 5, default_hires_mode=HiResMode.BRAILLE, id=id)
        self.picture: Picture | None = None
        self._range = (0.0, 1.0)

    def on_mount(self) -> None:
        """Follow changes of the theme."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self.redraw())

    def on_resize(self, event: events.Resize) -> None:
        """Draw at the new size."""
        self.reset(size=Size(max(1, event.size.width), max(1, event.size.height)), refresh=False)
        self.redraw()

    def render_line(self, y: int) -> Strip:
        """One line; those beyond the canvas have a style too, without which the filter of NO_COLOR fails."""
        strip = super().render_line(y)
        return strip if strip.cell_length else Strip.blank(self.size.width, self.rich_style)

    def draw(self, picture: Picture) -> None:
        """Show a picture instead of the one before; draws only when it is another one."""
        before, self.picture = self.picture, picture
        if not picture.same_as(before):
            self.redraw()

    @property
    def _plot(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the plot in cells."""
        width, height = self._canvas_size
        return _LEFT, 1, max(1, width - _LEFT - 1), max(1, height - 2)

    def redraw(self) -> None:
        """Draw the picture again."""
        if self.picture is None or self._canvas_size.width <= _LEFT + 2 or self._canvas_size.height < 3:
            return
        with self.batch_refresh():
            self.reset(refresh=False)
            self._draw(self.picture)

    def _draw(self, picture: Picture) -> None:
        if not picture.lines:
            self._draw_title(picture)
            return
        pieces = [(line, *self._pieces(line, picture)) for line in picture.lines]
        self._range = _y_range([piece for _, raw, smooth in pieces for piece in (*raw, *smooth)], picture.log_y)
        self._draw_axes(picture)
        for mark in picture.marks:
            self._draw_vertical(float(mark), picture, "╎", self._colour("chart-marker"))
        for line, raw, smooth in pieces:
            if line.dots:
                continue
            if smooth and picture.faint:
                self._draw_line(raw, picture, self._colour("chart-faint"))
            self._draw_line(smooth or raw, picture, self._colour(line.colour))
        for line, raw, _ in pieces:
            if line.dots:
                self._draw_dots(raw, picture, self._colour(line.colour))
        if picture.inspected is not None:
            self._draw_vertical(picture.inspected, picture, "│", self._colour("accent"))
        self._draw_title(picture)

    def _pieces(self, line: Line, picture: Picture) -> tuple[list[tuple[Floats, Floats]], list[tuple[Floats, Floats]]]:
        """The line's raw and smooth pieces, decimated and on the scale of Y."""
        _, _, width, _ = self._plot
        x = line.curve.x[picture.axis]

        def pieces(values: Floats | None) -> list[tuple[Floats, Floats]]:
            if values is None:
                return []
            scaled = _log(values) if picture.log_y else values
            # A braille cell is two dots wide.
            return decimate(x, scaled, 2 * width, picture.low, picture.high)

        return pieces(line.curve.values), pieces(line.curve.smooth)

    def _draw_line(self, pieces: list[tuple[Floats, Floats]], picture: Picture, style: str) -> None:
        segments: list[tuple[float, float, float, float]] = []
        dots: list[tuple[float, float]] = []
        for x, y in pieces:
            across, down = self._places(x, y, picture)
            if len(across) == 1:
                dots.append((across[0], down[0]))
            segments += zip(across[:-1], down[:-1], across[1:], down[1:], strict=True)
        self.draw_hires_lines(segments, style=style)
        if dots:
            self.set_hires_pixels(dots, style=style)

    def _draw_dots(self, pieces: list[tuple[Floats, Floats]], picture: Picture, style: str) -> None:
        for x, y in pieces:
            for across, down in zip(*self._places(x, y, picture), strict=True):
                self.set_pixel(int(across), int(down), "◆", style)

    def _places(self, x: Floats, y: Floats, picture: Picture) -> tuple[list[float], list[float]]:
        """Cells of points, in fractions of a cell."""
        left, top, width, height = self._plot
        low, high = self._range
        across = left + (x - picture.low) / (picture.high - picture.low) * (width - 0.5)
        down = top + (high - np.clip(y, low, high)) / (high - low) * (height - 0.25)
        return across.tolist(), down.tolist()

    def _draw_axes(self, picture: Picture) -> None:
        left, top, width, height = self._plot
        low, high = self._range
        faint, muted = self._colour("border-blurred"), self._colour("text-muted")
        for row in range(top, top + height):
            self.set_pixel(left - 1, row, "│", faint)
        for tick in (log_ticks if picture.log_y else nice_ticks)(low, high, min(8, max(3, height // 2))):
            row = top + int((high - tick) / (high - low) * (height - 0.25))
            if top <= row < top + height:
                label = y_label(10**tick if picture.log_y else tick)
                self._text(left - 2 - len(label) + 1, row, label, muted)
                self.set_pixels([(left + column, row) for column in range(width)], "┈", faint)
        end = left
        for tick in nice_ticks(picture.low, picture.high, max(2, width // 12)):
            label = x_label(picture.axis, tick)
            column = left + int((tick - picture.low) / (picture.high - picture.low) * (width - 0.5))
            begin = max(left, min(column - len(label) // 2, left + width - len(label)))
            if begin >= end:
                self._text(begin, top + height, label, muted)
                end = begin + len(label) + 1

    def _draw_vertical(self, x: float, picture: Picture, glyph: str, style: str) -> None:
        left, top, width, height = self._plot
        if picture.low <= x <= picture.high:
            column = left + int((x - picture.low) / (picture.high - picture.low) * (width - 0.5))
            self.set_pixels([(column, row) for row in range(top, top + height)], glyph, style)

    def _draw_title(self, picture: Picture) -> None:
        """The name on the left; on the right the newest values, or those under the crosshair."""
        width = self._canvas_size.width
        self._text(1, 0, picture.title, f"bold {self._colour('foreground')}")
        parts: list[tuple[str, str]] = []
        if picture.inspected is not None and picture.lines:
            at = self._value_at(picture.lines[0], picture, picture.inspected)
            if at is not None:
                parts.append((f"{picture.axis} {x_label(picture.axis, at[0])}", self._colour("text-muted")))
        for line in picture.lines:
            found = self._shown_value(line, picture)
            if found:
                parts.append((found, self._colour(line.colour)))
        column = width - 1 - sum(cell_len(text) + 2 for text, _ in parts) + 2
        column = max(column, cell_len(picture.title) + 3)
        for text, style in parts:
            self._text(column, 0, text, style)
            column += cell_len(text) + 2

    def _shown_value(self, line: Line, picture: Picture) -> str:
        value = line.curve.last
        if picture.inspected is not None:
            at = self._value_at(line, picture, picture.inspected)
            if at is None:
                return ""
            value = at[1]
        words = "NaN"
        if isfinite(value):
            words = units.size(value) if line.curve.name.endswith("bytes") else units.figure(value)
        return f"{line.label} {words}" if line.label else words

    def _value_at(self, line: Line, picture: Picture, x: float) -> tuple[float, float] | None:
        """The point of a line nearest to an X: its own X and its raw value."""
        index = line.curve.nearest(picture.axis, x)
        if index is None:
            return None
        return float(line.curve.x[picture.axis][index]), float(line.curve.values[index])

    def _text(self, x: int, y: int, text: str, style: str) -> None:
        """Write text, cut at the edges; unlike the canvas's own method it does not read markup."""
        width = self._canvas_size.width
        for offset, character in enumerate(text):
            if 0 <= x + offset < width:
                self.set_pixel(x + offset, y, character, style)

    def _colour(self, name: str) -> str:
        return colour_of(self.app, name)

    def x_at(self, column: int) -> float | None:
        """X of the picture at a column of the widget, None outside the plot."""
        left, _, width, _ = self._plot
        if self.picture is None or not left <= column < left + width:
            return None
        return self.picture.low + (column - left) / (width - 0.5) * (self.picture.high - self.picture.low)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in with Ctrl and the wheel; without Ctrl the page scrolls."""
        self._wheel(event, -1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out with Ctrl and the wheel."""
        self._wheel(event, 1)

    def _wheel(self, event: events.MouseEvent, direction: int) -> None:
        x = self.x_at(event.x)
        if event.ctrl and x is not None:
            event.stop()
            event.prevent_default()
            self.post_message(self.Scrolled(x, direction))

    def on_click(self, event: events.Click) -> None:
        """Put the crosshair where was clicked."""
        x = self.x_at(event.x)
        if x is not None:
            self.post_message(self.Pointed(self, x))


def _log(values: Floats) -> Floats:
    """log10, NaN where a value has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = np.where(values > 0, np.log10(values), np.nan)
    return result


def _y_range(pieces: Sequence[tuple[Floats, Floats]], log_y: bool) -> tuple[float, float]:
    """Least and greatest y drawn, with a little room; (0, 1) without points."""
    ends = [(float(y.min()), float(y.max())) for _, y in pieces if len(y)]
    if not ends:
        return 0.0, 1.0
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    # Averages of equal values differ in their last digits.
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        room = 0.5 if log_y else abs(low) * 0.1 or 0.5
        return low - room, high + room
    room = (high - low) * 0.04
    # Quantities that are never negative get no tick below zero.
    return (0.0 if not log_y and low >= 0 > low - room else low - room), high + room
