"""The Plugins screen: what is installed, what works, and the whole story of what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from nexa.text import sanitize, sanitize_line
from nexa.tui.keys import bindings
from nexa.tui.screens.base import NexaScreen
from nexa.tui.widgets.table import Column, RowTable

if TYPE_CHECKING:
    from textual.binding import BindingType

    from nexa.plugins import PluginEntry

_COLOURS = {"ok": "success", "duplicate": "error", "error": "error", "slow": "warning", "off": "text-muted"}
_GLYPHS = {"ok": "✓", "duplicate": "✗", "error": "✗", "slow": "◔", "off": "○"}


def _column(name: str, width: int, importance: int, attribute: str) -> Column[PluginEntry]:
    return Column(
        name=name,
        width=width,
        text=lambda entry: sanitize_line(getattr(entry, attribute) or "–"),
        importance=importance,
    )


_COLUMNS: list[Column[PluginEntry]] = [
    _column("name", 18, 9, "name"),
    _column("kind", 15, 8, "kind"),
    Column(
        name="status",
        width=11,
        text=lambda entry: f"{_GLYPHS[entry.status]} {entry.status}",
        colour=lambda entry: _COLOURS[entry.status],
        importance=9,
    ),
    _column("distribution", 18, 4, "distribution"),
    _column("version", 10, 3, "version"),
    Column(name="about", width=0, text=lambda entry: sanitize_line(entry.message or entry.summary), importance=9),
]


class PluginsScreen(NexaScreen):
    """A table of plugins, and all that is known of the one under the cursor."""

    ENTRY = "plugins"
    CSS_PATH = "plugins.tcss"
    BINDINGS: ClassVar[list[BindingType]] = bindings("plugins")

    def body(self) -> ComposeResult:
        """The table, and below it one plugin."""
        yield RowTable(_COLUMNS, key=_key, empty="looking for plugins …", id="plugins-table")
        with VerticalScroll(id="plugin"):
            yield Static(id="plugin-text")

    def read(self) -> Sequence[PluginEntry]:
        """Every plugin, those with a problem first."""
        report = self.services.host().report()
        return sorted(report, key=lambda entry: entry.status in ("ok", "off"))

    def show(self, found: Sequence[PluginEntry]) -> None:
        """Fill the table."""
        table: RowTable[PluginEntry] = self.query_one("#plugins-table", RowTable)
        table.set_empty("no plugin is installed")
        table.set_rows(found)
        self._show_plugin(table.current)

    @on(RowTable.Moved)
    def _moved(self, event: RowTable.Moved) -> None:
        self._show_plugin(event.row)

    def _show_plugin(self, entry: PluginEntry | None) -> None:
        text = Content("")
        if entry is not None:
            rows = (
                ("provided by", f"{entry.distribution} {entry.version}, entry point {entry.entry_point!r}"),
                ("summary", entry.summary),
                ("status", entry.status),
                ("message", entry.message),
            )
            parts = [part for label, value in rows if value for part in _fact(label, value)]
            traceback = (f"\n{sanitize(entry.traceback)}", "$foreground-muted")
            text = Content.assemble((f"{sanitize_line(entry.name)}\n", "bold"), *parts, traceback).rstrip()
        self.query_one("#plugin-text", Static).update(text)

    def action_reload(self) -> None:
        """Ask every plugin again."""
        self.read_now()


def _key(entry: PluginEntry) -> str:
    return f"{entry.kind}/{entry.name}/{entry.distribution}/{entry.entry_point}"


def _fact(label: str, value: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (f"{label:<13}", "$foreground-muted"), (f"{sanitize(value)}\n", "")
