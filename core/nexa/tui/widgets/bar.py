"""The bars of every screen: on top where one is and how it was opened, below the keys."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.events import Click
from textual.widgets import Static

from nexa.text import sanitize_line
from nexa.tui.screens import SCREENS, ScreenEntry
from nexa.tui.themes import colour_of

_KEY = "key"
"""Name under which a piece of the bar of keys knows its key."""


class NavigationItem(Static):
    """One screen's number and title; a click opens it."""

    def __init__(self, number: int, entry: ScreenEntry, *, current: bool) -> None:
        text = Text.assemble((str(number), "bold"), " ", entry.title)
        super().__init__(text, classes="-current" if current else "")
        self._entry = entry.name

    async def on_click(self) -> None:
        """Open the screen."""
        await self.run_action(f"app.open_screen('{self._entry}')")


class NavigationBar(Horizontal):
    """Nexa, the six screens, and on the right the folder of runs and whether actions are refused."""

    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        """The items."""
        from nexa.tui.app import NexaApp

        assert isinstance(self.app, NexaApp)
        services = self.app.services
        yield Static("nexa", id="brand")
        for number, entry in enumerate(SCREENS, 1):
            yield NavigationItem(number, entry, current=entry.name == self._current)
        if services.readonly:
            yield Static("read-only", id="readonly")
        yield Static(Text(sanitize_line(str(services.runs_dir))), id="runs-dir")


class KeyBar(Static):
    """The keys that work now, in one line; help stays in sight on the right where there are more than fit.

    One text in place of Textual's Footer, which makes a widget of every key anew whenever the focus moves.
    """

    def on_mount(self) -> None:
        """Follow the focus, the theme and the size."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._draw())
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())

    def on_unmount(self) -> None:
        """Follow no longer."""
        self.screen.bindings_updated_signal.unsubscribe(self)

    def on_resize(self) -> None:
        """Use the width there is."""
        self._draw()

    def _draw(self) -> None:
        keys, pinned = Text(no_wrap=True), Text(no_wrap=True)
        by_action: dict[str, Binding] = {}
        for active in self.screen.active_bindings.values():
            if active.enabled and active.binding.show:
                by_action.setdefault(active.binding.action, active.binding)
        for action, binding in by_action.items():
            self._append(pinned if action == "help" else keys, binding)
        keys.truncate(max(0, self.size.width - pinned.cell_len), pad=True)
        self.update(keys + pinned)

    def _append(self, line: Text, binding: Binding) -> None:
        key = {_KEY: binding.key}
        display = self.app.get_key_display(binding)
        line.append(f" {display} ", Style(color=colour_of(self.app, "footer-key-foreground"), bold=True, meta=key))
        line.append(binding.description, Style(meta=key))

    def on_click(self, event: Click) -> None:
        """Press the key that was clicked."""
        if key := event.style.meta.get(_KEY):
            self.app.simulate_key(key)
