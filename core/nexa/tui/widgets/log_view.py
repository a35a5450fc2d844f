"""A window on a log file of any size: reads only the lines in sight."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from nexa.tui.data.log_index import LogIndex, RawLine
from nexa.tui.data.log_lines import LevelFilter, Search, ShownLine, shown, tail
from nexa.tui.keys import bindings
from nexa.tui.themes import colour_of

_RECORD = re.compile(r"(\d\d:\d\d:\d\d )(\w+ *)")
_COLOURS = {"error": "error", "warning": "warning"}
_WHEEL_LINES = 3


@dataclass(frozen=True)
class _Row:
    """One row of the screen. first: whether a line begins here."""

    line: ShownLine
    text: str
    first: bool


class LogView(Widget, can_focus=True):
    """Lines of a `LogIndex`, which somebody else keeps counted; shows the end of what was not counted yet.

    follow: whether the end stays in sight. wrap: whether long lines continue on the next row.
    """

    BINDINGS = bindings("log")
    COMPONENT_CLASSES = {"log--match", "log--current"}
    DEFAULT_CSS = """
    LogView { height: 1fr; background: $background; }
    LogView > .log--match { background: $warning 40%; }
    LogView > .log--current { background: $panel; }
    """

    class Asked(Message):
        """Something that needs the whole file was asked for: "match", "error", "level", "source"."""

        def __init__(self, what: str, direction: int = 1) -> None:
            super().__init__()
            self.what = what
            self.direction = direction

    class Moved(Message):
        """What is in sight has changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.index: LogIndex | None = None
        self.level: LevelFilter | None = None
        self.search: Search | None = None
        self.follow = True
        self.wrap = False
        self.current: int | None = None
        """Number of the line last jumped to."""
        self._top = 0
        self._skip = 0
        self._across = 0
        self._rows: list[_Row] = []
        self._generation = 0
        self._place: tuple[int, int, Size] | None = None

    def open(self, index: LogIndex | None) -> None:
        """Show another file, from its end; None for nothing."""
        self.index, self.level, self.current = index, None, None
        self.follow = True
        self._top = self._skip = self._across = 0
        if index is None:
            self._rows = []
            self.refresh()
        self.update()

    def on_resize(self) -> None:
        """Lay the rows out again."""
        self.update()

    def update(self) -> None:
        """Show what the index knows now."""
        if self.index is None or not self.size.height:
            return
        if self.index.generation != self._generation:
            self._generation, self._top, self._skip, self.current = self.index.generation, 0, 0, None
        rows = self._preview() if self.follow and not self.index.complete else self._layout()
        if rows != self._rows:
            before, self._rows = self._rows, rows
            if len(before) == len(rows):
                for y, (old, new) in enumerate(zip(before, rows, strict=True)):
                    if old != new:
                        self.refresh_row(y)
            else:
                self.refresh()
        place = (self._top, self.count, self.size)
        if place != self._place:
            self._place = place
            # The column that shows where in the file one is.
            self.refresh(Region(self.size.width - 1, 0, 1, self.size.height))
        self.post_message(self.Moved())

    def refresh_row(self, y: int) -> None:
        """Draw one row anew."""
        self.refresh(Region(0, y, self.size.width, 1))

    @property
    def count(self) -> int:
        """How many lines can be scrolled through."""
        if self.level is not None:
            return len(self.level.numbers)
        return self.index.lines if self.index is not None else 0

    @property
    def position(self) -> int:
        """The first line in sight, counted among those that can be scrolled through."""
        return self._top

    @property
    def top_line(self) -> int:
        """Number in the file of the first line in sight."""
        return self._rows[0].line.number if self._rows else 0

    def _lines(self, first: int, count: int) -> list[ShownLine]:
        """Lines by their place among those that can be scrolled through."""
        if self.index is None:
            return []
        if self.level is None:
            raw = self.index.read(first, count)
        else:
            numbers = self.level.numbers[first : first + count]
            raw = [line for number in numbers for line in self.index.read(number, 1)]
        return [shown(line) for line in raw]

    def _preview(self) -> list[_Row]:
        assert self.index is not None
        raw: list[RawLine] = tail(self.index.path, self.size.height)
        return [row for line in raw for row in self._split(shown(line))][-self.size.height :]

    def _layout(self) -> list[_Row]:
        height = self.size.height
        if self.follow:
            self._go_to_end()
        rows: list[_Row] = []
        place, skip = self._top, self._skip
        while len(rows) < height:
            lines = self._lines(place, height - len(rows))
            if not lines:
                break
            for line in lines:
                rows += self._split(line)[skip:]
                skip = 0
            place += len(lines)
        return rows[:height]

    def _go_to_end(self) -> None:
        """Put the top where the last rows just fit."""
        height, rows, place = self.size.height, 0, self.count
        while place > 0 and rows < height:
            step = min(place, height - rows)
            for line in reversed(self._lines(place - step, step)):
                rows += len(self._split(line))
                place -= 1
                if rows >= height:
                    break
            else:
                continue
            break
        self._top, self._skip = max(0, place), max(0, rows - height)

    def _split(self, line: ShownLine) -> list[_Row]:
        """The rows of the screen that a line takes."""
        width = max(1, self.size.width - 1)
        rows: list[_Row] = []
        for text in line.rows:
            parts = chop_cells(text, width) if self.wrap and text else [text]
            rows += [_Row(line, part, not rows and not index) for index, part in enumerate(parts)]
        return rows

    def render_line(self, y: int) -> Strip:
        """Draw one row, and at its right end where in the file one is."""
        width = max(1, self.size.width - 1)
        base = self.rich_style
        if y < len(self._rows):
            row = self._rows[y]
            if row.line.number == self.current and self.current is not None:
                base = base + self.get_component_rich_style("log--current", partial=True)
            strip = Strip(self._segments(row, base)).crop(self._across, self._across + width)
            strip = strip.adjust_cell_length(width, base)
        else:
            strip = Strip.blank(width, base)
        return Strip([*strip, self._thumb(y)], width + 1)

    def _thumb(self, y: int) -> Segment:
        height, count = self.size.height, self.count
        faint = Style(color=colour_of(self.app, "border-blurred"))
        if count <= height:
            return Segment(" ", self.rich_style)
        size = max(1, height * height // count)
        begin = round(self._top / max(1, count - height) * (height - size))
        if begin <= y < begin + size:
            return Segment("┃", self.rich_style + Style(color=colour_of(self.app, "primary")))
        return Segment("│", self.rich_style + faint)

    def _segments(self, row: _Row, base: Style) -> list[Segment]:
        colour = _COLOURS.get(row.line.level)
        record = _RECORD.match(row.text) if row.first else None
        segments: list[Segment] = []
        text = row.text
        if record is not None:
            level = base + Style(color=colour_of(self.app, colour or "primary"), bold=bool(colour))
            segments = [
                Segment(record[1], base + Style(color=colour_of(self.app, "text-muted"))),
                Segment(record[2], level),
            ]
            text = text[record.end() :]
        elif colour:
            base = base + Style(color=colour_of(self.app, colour))
        return [*segments, *self._with_matches(text, base)]

    def _with_matches(self, text: str, base: Style) -> list[Segment]:
        if self.search is None:
            return [Segment(text, base)]
        marked = base + self.get_component_rich_style("log--match", partial=True)
        segments, position = [], 0
        for match in self.search.pattern.finditer(text):
            if match.end() > match.start():
                segments += [Segment(text[position : match.start()], base), Segment(match.group(), marked)]
                position = match.end()
        return [*segments, Segment(text[position:], base)]

    def go_to(self, number: int) -> None:
        """Show a line by its number in the file, a third down the screen."""
        if self.level is not None:
            if number not in self.level.numbers:
                self.level = None
            else:
                number_at = bisect_left(self.level.numbers, number)
                self._show_from(number_at, number)
                return
        self._show_from(number, number)

    def _show_from(self, place: int, number: int) -> None:
        self.follow = False
        self.current = number
        self._top, self._skip = max(0, place - self.size.height // 3), 0
        self._rows = []
        self.update()

    def scroll_rows(self, rows: int) -> None:
        """Move by so many rows; reaching the end follows it again."""
        if self.index is None:
            return
        if rows < 0:
            self.follow = False
        for _ in range(abs(rows)):
            if rows > 0 and not self._step_down():
                self.follow = True
                break
            if rows < 0 and not self._step_up():
                break
        self.update()

    def _step_down(self) -> bool:
        if self._at_end():
            return False
        here = self._lines(self._top, 1)
        if here and self._skip + 1 < len(self._split(here[0])):
            self._skip += 1
        else:
            self._top, self._skip = self._top + 1, 0
        return True

    def _at_end(self) -> bool:
        top, skip = self._top, self._skip
        self._go_to_end()
        end, (self._top, self._skip) = (self._top, self._skip), (top, skip)
        return (top, skip) >= end

    def _step_up(self) -> bool:
        if self._skip:
            self._skip -= 1
        elif self._top:
            self._top -= 1
            here = self._lines(self._top, 1)
            self._skip = len(self._split(here[0])) - 1 if here else 0
        else:
            return False
        return True

    def on_key(self, event: events.Key) -> None:
        """Arrows and page keys."""
        page = max(1, self.size.height - 2)
        rows = {"up": -1, "down": 1, "k": -1, "j": 1, "pageup": -page, "pagedown": page, "space": page}
        across = {"left": -16, "right": 16, "h": -16, "l": 16}
        if event.key in rows:
            self.scroll_rows(rows[event.key])
        elif event.key in across and not self.wrap:
            widest = max((cell_len(row.text) for row in self._rows), default=0)
            self._across = max(0, min(self._across + across[event.key], max(0, widest - self.size.width // 2)))
            self.refresh()
        elif event.key == "home":
            self.action_begin()
        elif event.key == "end":
            self.action_end()
        else:
            return
        event.stop()
        event.prevent_default()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Move up."""
        event.stop()
        self.scroll_rows(-_WHEEL_LINES)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Move down."""
        event.stop()
        self.scroll_rows(_WHEEL_LINES)

    def on_click(self, event: events.Click) -> None:
        """On the right edge: go to that part of the file."""
        if event.x == self.size.width - 1 and self.count > self.size.height:
            self.follow = False
            self._top, self._skip = int(event.y / max(1, self.size.height - 1) * (self.count - self.size.height)), 0
            self.update()

    def action_follow(self) -> None:
        """Keep the end in sight, or no longer."""
        self.follow = not self.follow
        self.update()

    def action_begin(self) -> None:
        """Go to the begin."""
        self.follow = False
        self._top = self._skip = 0
        self.update()

    def action_end(self) -> None:
        """Go to the end and follow it."""
        self.follow, self.current = True, None
        self.update()

    def action_wrap(self) -> None:
        """Continue long lines on the next row, or cut them."""
        self.wrap = not self.wrap
        self._across = self._skip = 0
        self._rows = []
        self.update()
        self.refresh()

    def action_match(self, direction: int) -> None:
        """Go to the next (1) or previous (−1) match."""
        self.post_message(self.Asked("match", direction))

    def action_next_error(self) -> None:
        """Go to the next error."""
        self.post_message(self.Asked("error"))

    def action_level(self) -> None:
        """Show the next level and above."""
        self.post_message(self.Asked("level"))

    def action_next_source(self) -> None:
        """Show the next log file."""
        self.post_message(self.Asked("source"))
