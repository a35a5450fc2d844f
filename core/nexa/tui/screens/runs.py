"""Runs: all runs and how they are; filter, sort, pin, select, and act on them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.widgets import Input, Static

from nexa import units
from nexa.errors import NexaError
from nexa.text import sanitize
from nexa.tui.data.runs import RunCatalog, RunList, RunRow, matching
from nexa.tui.glyphs import LOOKS
from nexa.tui.keys import bindings
from nexa.tui.run_actions import RunActions
from nexa.tui.widgets.table import Column, RowTable


def _state(row: RunRow) -> str:
    return f"{LOOKS[row.state].glyph} {row.state}" if row.state else "· …"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value < 1e5 else f"{value / 1000:,.0f}k"


class RunsScreen(RunActions):
    """The list of runs."""

    ENTRY = "runs"
    READ_SECONDS = 0.5
    BINDINGS = bindings("lists", "run")

    def __init__(self) -> None:
        super().__init__()
        self._catalog: RunCatalog | None = None
        self._rows: Sequence[RunRow] = ()
        self._pending = 0
        self._selected: set[str] = set()
        self._sort = ("age", False)
        self._columns = self._make_columns()

    def _make_columns(self) -> list[Column[RunRow]]:
        def age(row: RunRow) -> str:
            return units.age(row.created_at, now=self.services.clock())

        def colour(row: RunRow) -> str:
            return LOOKS[row.state].colour if row.state else "text-muted"

        return [
            Column(name="state", width=11, text=_state, order=lambda row: str(row.state), colour=colour, importance=10),
            Column(name="run", width=0, text=lambda row: row.name, order=lambda row: row.name.lower(), importance=10),
            Column(name="recipe", width=14, text=lambda row: row.recipe, order=lambda row: row.recipe, importance=2),
            Column(
                name="step",
                width=13,
                text=lambda row: units.steps(row.step, row.total_steps),
                order=lambda row: row.step or 0,
                right=True,
                importance=9,
            ),
            Column(
                name="left",
                width=7,
                text=lambda row: units.duration(row.eta_seconds),
                order=lambda row: row.eta_seconds or 0.0,
                right=True,
                importance=6,
            ),
            Column(
                name="loss",
                width=8,
                text=lambda row: units.figure(row.loss),
                order=lambda row: row.loss if row.loss is not None else float("inf"),
                right=True,
                importance=8,
            ),
            Column(
                name="tok/s",
                width=7,
                text=lambda row: _rate(row.tokens_per_second),
                order=lambda row: row.tokens_per_second or 0.0,
                right=True,
                importance=5,
            ),
            Column(name="node", width=12, text=lambda row: row.node, order=lambda row: row.node, importance=3),
            Column(name="age", width=4, text=age, order=lambda row: -(row.created_at or 0), right=True, importance=7),
            Column(
                name="try",
                width=3,
                text=lambda row: str(row.attempts) if row.attempts > 1 else "",
                order=lambda row: row.attempts,
                right=True,
                importance=1,
            ),
        ]

    def body(self) -> ComposeResult:
        """Filter, table, one line about the run under the cursor."""
        yield Input(placeholder="filter: words, -without", id="filter", compact=True)
        yield RowTable[RunRow](self._columns, key=lambda row: row.run_id, empty="reading …", id="runs")
        yield Static("", id="run-line")

    def on_mount(self) -> None:
        """The cursor begins in the table."""
        self._table.sorted_by = self._sort
        self._table.focus()

    @property
    def _table(self) -> RowTable[RunRow]:
        return self.query_one("#runs", RowTable)

    def read(self) -> RunList:
        """Bring the catalog up to date."""
        if self._catalog is None:
            self._catalog = RunCatalog(self.services.store, clock=self.services.clock)
        return self._catalog.poll()

    def show(self, found: RunList) -> None:
        """Take the rows over; while some are unread, read on at once."""
        self._rows, self._pending = found.rows, found.pending
        self._selected &= {row.run_id for row in found.rows}
        self._arrange()
        if found.pending:
            self.read_now()

    def show_trouble(self, error: NexaError) -> None:
        """Say in the table why there is nothing."""
        self._table.set_empty(sanitize(error.message))

    def _arrange(self) -> None:
        """Filter, sort and mark the rows."""
        query = self.query_one("#filter", Input).value
        rows = matching(self._rows, query)
        column = next(column for column in self._columns if column.name == self._sort[0])
        if column.order is not None and self._sort != ("age", False):
            rows.sort(key=column.order, reverse=self._sort[1])
        pinned = self.services.preferences.pinned
        if pinned:
            rows.sort(key=lambda row: row.run_id not in pinned)
        table = self._table
        table.marked = {
            row.run_id: ("✓" if row.run_id in self._selected else "★")
            for row in rows
            if row.run_id in self._selected or row.run_id in pinned
        }
        table.set_empty(self._empty_words(query))
        table.set_rows(rows)
        self._show_line()

    def _empty_words(self, query: str) -> str:
        if self._rows and query:
            return f"no run matches {query!r}; Esc clears the filter"
        return f"no runs in {sanitize(str(self.services.runs_dir))} yet; press 1 to launch one"

    def _show_line(self) -> None:
        """Below the table: the run under the cursor on the left, counts on the right."""
        row = self._table.current
        line = Text(no_wrap=True, overflow="ellipsis")
        if row is not None:
            line.append(row.run_id, "bold")
            line.append(f"  {row.reason}" if row.reason else "", "dim")
        active = sum(row.active for row in self._rows if row.state is not None)
        parts = [f"{len(self._rows)} runs", f"{active} active" if active else "", "reading …" if self._pending else ""]
        if self._selected:
            parts.insert(0, f"{len(self._selected)} selected")
        counts = " · ".join(part for part in parts if part)
        room = self.size.width - 2 - len(counts)
        line.truncate(max(0, room - 2), overflow="ellipsis", pad=True)
        line.append("  " + counts, "dim")
        self.query_one("#run-line", Static).update(line)

    def targets(self) -> Sequence[str]:
        """The selected runs, else the one under the cursor."""
        if self._selected:
            return [row.run_id for row in self._rows if row.run_id in self._selected]
        row = self._table.current
        return [row.run_id] if row is not None else []

    @on(RowTable.Opened)
    async def _open(self, event: RowTable.Opened) -> None:
        await self.nexa.open_run(event.row.run_id)

    @on(RowTable.Moved)
    def _moved(self) -> None:
        self._show_line()

    @on(RowTable.HeadClicked)
    def _head_clicked(self, event: RowTable.HeadClicked) -> None:
        name, descending = self._sort
        self._sort_by(event.column.name, not descending if name == event.column.name else False)

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self._arrange()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self._table.focus()

    def action_filter(self) -> None:
        """Go to the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    def action_back(self) -> None:
        """Clear the filter, then the selection."""
        field = self.query_one("#filter", Input)
        if field.has_class("-open"):
            field.value = ""
            field.remove_class("-open")
            self._table.focus()
        elif self._selected:
            self._selected.clear()
            self._arrange()

    def action_sort(self) -> None:
        """Sort by the next column, or the same one the other way round."""
        name, descending = self._sort
        names = [column.name for column in self._columns if column.order is not None]
        if descending:
            self._sort_by(names[(names.index(name) + 1) % len(names)], False)
        else:
            self._sort_by(name, True)

    def _sort_by(self, name: str, descending: bool) -> None:
        self._sort = (name, descending)
        self._table.sorted_by = self._sort
        self._table.refresh()
        self._arrange()

    def action_select(self) -> None:
        """Select the run under the cursor, or no longer, and go to the next."""
        row = self._table.current
        if row is not None:
            self._selected ^= {row.run_id}
            self._arrange()
            self._table.action_cursor_down()

    def action_pin(self) -> None:
        """Keep the run under the cursor on top, or no longer; remembered between sessions."""
        row = self._table.current
        if row is not None:
            self.services.preferences.pinned ^= {row.run_id}
            self.services.preferences.save()
            self._arrange()

    async def action_compare(self) -> None:
        """Compare the selected runs."""
        await self.nexa.compare(self.targets())

    def action_copy(self) -> None:
        """Copy the run's id."""
        row = self._table.current
        if row is not None:
            self.app.copy_to_clipboard(row.run_id)
            self.tell(f"copied {row.run_id}", severity="information")
