"""A table that draws only the rows in sight, so that thousands of rows cost what a screenful does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from nexa.tui.contrast import readable
from nexa.tui.keys import bindings
from nexa.tui.themes import colour_of

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Column(Generic[Row]):
    """One column: heading, width in cells (0: what is left over), and how a row's cell reads and looks.

    order: what rows are sorted by, None where that makes no sense. colour: a variable of the theme, ""
    for the normal one. importance: columns of the least are left out first where the table is narrow.
    """

    name: str
    width: int
    text: Callable[[Row], str]
    order: Callable[[Row], Any] | None = None
    colour: Callable[[Row], str] | None = None
    right: bool = False
    importance: int = 0


class RowTable(ScrollView, Generic[Row], can_focus=True):
    """Rows under headings, with a cursor and marks on rows.

    columns: from left to right; one has width 0. key: identifies a row across updates. empty: what to
    say when there is no row.
    """

    BINDINGS = [
        *bindings("move"),
    ]
    COMPONENT_CLASSES = {"table--head", "table--cursor", "table--mark", "table--faint"}
    DEFAULT_CSS = """
    RowTable { overflow-x: hidden; scrollbar-size-vertical: 1; }
    RowTable > .table--head { color: $text-muted; text-style: bold; background: $surface; }
    RowTable > .table--cursor { background: $block-cursor-blurred-background; color: $foreground; }
    RowTable:focus > .table--cursor {
        background: $block-cursor-background;
        color: $block-cursor-foreground;
        text-style: $block-cursor-text-style;
    }
    RowTable > .table--mark { color: $accent; text-style: bold; }
    RowTable > .table--faint { color: $text-muted; }
    """

    cursor: reactive[int] = reactive(0, repaint=False)

    class Opened(Message):
        """A row was chosen with Enter or a second click."""

        def __init__(self, table: RowTable[Any], row: Any) -> None:
            super().__init__()
            self.table = table
            self.row = row

        @property
        def control(self) -> RowTable[Any]:
            """The table, for `@on` selectors."""
            return self.table

    class Moved(Message):
        """The cursor is on another row, None when there is none."""

        def __init__(self, table: RowTable[Any], row: Any | None) -> None:
            super().__init__()
            self.table = table
            self.row = row

        @property
        def control(self) -> RowTable[Any]:
            """The table, for `@on` selectors."""
            return self.table

    class HeadClicked(Message):
        """A heading was clicked."""

        def __init__(self, table: RowTable[Any], column: Column[Any]) -> None:
            super().__init__()
            self.table = table
            self.column = column

        @property
        def control(self) -> RowTable[Any]:
            """The table, for `@on` selectors."""
            return self.table

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        *,
        key: Callable[[Row], str],
        empty: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = columns
        self._key = key
        self._empty = empty
        self._rows: Sequence[Row] = ()
        self._shown: list[tuple[Column[Row], int]] = []
        self._drawn: dict[int, tuple[str, ...]] = {}
        self.marked: dict[str, str] = {}
        """Glyphs in front of rows, by key."""
        self.sorted_by: tuple[str, bool] | None = None
        """Name of the column that the headings show as sorted, and whether descending."""

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, in the order shown."""
        return self._rows

    @property
    def current(self) -> Row | None:
        """The row under the cursor, None when there is none."""
        return self._rows[self.cursor] if self._rows and self.cursor < len(self._rows) else None

    def set_empty(self, text: str) -> None:
        """Change what is said when there is no row."""
        if text != self._empty:
            self._empty = text
            self.refresh()

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows; the cursor stays on its row. Lines that look as before are not drawn anew."""
        before = self._rows
        current = self.current
        old_key = self._key(current) if current is not None else None
        self._rows = rows
        if len(rows) != len(before):
            self.virtual_size = Size(self.size.width, len(rows) + 1)
        place = self.cursor
        if old_key is not None and not (place < len(rows) and self._key(rows[place]) == old_key):
            place = next((i for i, row in enumerate(rows) if self._key(row) == old_key), min(place, len(rows) - 1))
            # At the top, one looks at what is newest and not at one row.
            if self.cursor == 0 and self.scroll_offset.y == 0:
                place = 0
        self.cursor = max(0, place)
        new = self.current
        if (self._key(new) if new is not None else None) != old_key:
            self.post_message(self.Moved(self, new))
        self.redraw_changed()

    def redraw_changed(self) -> None:
        """Draw anew the lines in sight whose text or look has changed since they were drawn."""
        top = self.scroll_offset.y
        for line in range(1, self.size.height):
            if self._drawn.get(line) != self._signature(top + line - 1):
                self.refresh(Region(0, line, self.size.width, 1))

    def _signature(self, index: int) -> tuple[str, ...]:
        """All that decides how a row is drawn, but for the cursor and the theme."""
        if index >= len(self._rows):
            return () if self._rows or index != 1 else (self._empty,)
        row = self._rows[index]
        cells = [column.text(row) for column, _ in self._shown]
        colours = [column.colour(row) for column, _ in self._shown if column.colour is not None]
        return (self.marked.get(self._key(row), ""), *cells, *colours)

    def watch_cursor(self, old: int, new: int) -> None:
        """Keep the cursor in sight and redraw the two lines concerned."""
        top, height = self.scroll_offset.y, max(1, self.size.height - 1)
        if new < top:
            self.scroll_to(y=new, animate=False, force=True)
        elif new >= top + height:
            self.scroll_to(y=new - height + 1, animate=False, force=True)
        for index in (old, new):
            self.refresh(Region(0, index - top + 1, self.size.width, 1))

    def on_resize(self) -> None:
        """Choose the columns that fit."""
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self._shown = self._fit(self.size.width)
        self.refresh()

    def _fit(self, width: int) -> list[tuple[Column[Row], int]]:
        """Columns and widths that fit, the least important left out."""
        chosen = list(self._columns)
        while len(chosen) > 1:
            # Two cells of marks, and one between columns.
            fixed = 2 + sum(column.width for column in chosen) + len(chosen)
            flexible = [column for column in chosen if column.width == 0]
            if fixed + 14 * len(flexible) <= width:
                break
            chosen.remove(min(chosen, key=lambda column: column.importance))
        fixed = 2 + sum(column.width for column in chosen) + len(chosen)
        flexible = [column for column in chosen if column.width == 0]
        share = max(4, (width - fixed) // max(1, len(flexible)))
        return [(column, column.width or share) for column in chosen]

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen: the headings stay on top."""
        width = self.size.width
        if y == 0:
            return self._head(width)
        index = self.scroll_offset.y + y - 1
        self._drawn[y] = self._signature(index)
        if index < len(self._rows):
            return self._line(index, width)
        base = self.rich_style
        if not self._rows and y == 2 and self._empty:
            style = base + Style(color=colour_of(self.app, "text-muted"))
            return Strip([Segment(set_cell_size(f"  {self._empty}", width), style)], width)
        return Strip.blank(width, base)

    def _head(self, width: int) -> Strip:
        style = self.get_component_rich_style("table--head")
        segments = [Segment("  ", style)]
        for column, cells in self._shown:
            name = column.name
            if self.sorted_by is not None and self.sorted_by[0] == column.name:
                name += "▾" if self.sorted_by[1] else "▴"
            segments.append(Segment(_cell(name, cells, column.right) + " ", style))
        return Strip(segments).adjust_cell_length(width, style)

    def _line(self, index: int, width: int) -> Strip:
        row = self._rows[index]
        base = self.rich_style
        at_cursor = index == self.cursor
        if at_cursor:
            base = base + self.get_component_rich_style("table--cursor", partial=True)
        mark = self.marked.get(self._key(row), "")
        mark_style = base + self.get_component_rich_style("table--mark", partial=True)
        segments = [Segment(set_cell_size(mark, 2), mark_style)]
        for column, cells in self._shown:
            style = base
            if column.colour is not None and (name := column.colour(row)):
                style = base + Style(color=colour_of(self.app, name))
            segments.append(Segment(_cell(column.text(row), cells, column.right) + " ", style))
        strip = Strip(segments).adjust_cell_length(width, base)
        return readable(strip, base) if at_cursor else strip

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to a row, open it with a second click; headings tell the screen."""
        if event.y == 0:
            x = 2
            for column, cells in self._shown:
                if x <= event.x <= x + cells:
                    self.post_message(self.HeadClicked(self, column))
                x += cells + 1
            return
        index = self.scroll_offset.y + event.y - 1
        if index >= len(self._rows):
            return
        if index == self.cursor and event.chain > 1:
            self.action_open()
        else:
            self.move_to(index)

    def move_to(self, index: int) -> None:
        """Put the cursor on a row, the nearest there is."""
        index = max(0, min(index, len(self._rows) - 1))
        if index != self.cursor:
            self.cursor = index
            self.post_message(self.Moved(self, self.current))

    def on_key(self, event: events.Key) -> None:
        """Arrows and page keys, which every list has and nobody remaps."""
        page = max(1, self.size.height - 2)
        targets = {
            "up": self.cursor - 1,
            "down": self.cursor + 1,
            "pageup": self.cursor - page,
            "pagedown": self.cursor + page,
            "home": 0,
            "end": len(self._rows) - 1,
        }
        if event.key in targets:
            event.stop()
            event.prevent_default()
            self.move_to(targets[event.key])

    def action_cursor_up(self) -> None:
        """Move up a row."""
        self.move_to(self.cursor - 1)

    def action_cursor_down(self) -> None:
        """Move down a row."""
        self.move_to(self.cursor + 1)

    def action_cursor_left(self) -> None:
        """Tables have no columns to move in."""

    def action_cursor_right(self) -> None:
        """Tables have no columns to move in."""

    def action_open(self) -> None:
        """Choose the row under the cursor."""
        if self.current is not None:
            self.post_message(self.Opened(self, self.current))


def _cell(text: str, cells: int, right: bool) -> str:
    """Text in exactly so many cells; what is too long ends in "…"."""
    length = cell_len(text)
    if length > cells:
        return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""
    return " " * (cells - length) + text if right else set_cell_size(text, cells)
