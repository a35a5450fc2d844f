"""Help: every key that works on the current screen, from the table of keys."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from nexa.tui.keys import HEADINGS, KEYS, Key
from nexa.tui.screens import entry_named

_TEXT_CELLS = 38
"""So that the ids of all headings are below one another."""


class HelpScreen(ModalScreen[None]):
    """A page of keys; any of Escape, ?, q closes it."""

    BINDINGS = [Binding("escape,question_mark,q", "dismiss", "Close")]

    def __init__(self, screen_name: str) -> None:
        super().__init__()
        self._shown = screen_name
        self.tables: list[Table] = []
        """The tables of keys, one a heading."""

    def compose(self) -> ComposeResult:
        """Headings and keys."""
        entry = entry_named(self._shown)
        with VerticalScroll(id="help") as box:
            box.border_title = f"Keys: {entry.title}"
            box.border_subtitle = "Esc closes"
            yield Static(entry.summary, classes="summary")
            for scope in (*entry.scopes, "global"):
                yield Static(HEADINGS[scope], classes="heading")
                self.tables.append(self._table(KEYS[scope]))
                yield Static(self.tables[-1])

    def _table(self, keys: tuple[Key, ...]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=16, no_wrap=True)
        table.add_column(width=_TEXT_CELLS)
        table.add_column(style="dim", no_wrap=True)
        for key in keys:
            table.add_row(Text(keys_in_words(self.app, key), style="bold"), Text(key.text), Text(key.id))
        return table


def keys_in_words(app: App[Any], key: Key) -> str:
    """The keys that a binding is on now, as the footer shows them."""
    names = app._keymap.get(key.id, key.keys)
    return " ".join(app.get_key_display(Binding(name.strip(), "")) for name in names.split(","))
