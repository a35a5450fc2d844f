"""The bars of every screen: on top where one is and how it was opened, below the keys."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Footer, Static

from nexa.text import sanitize_line
from nexa.tui.screens import SCREENS, ScreenEntry


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


class KeyBar(Footer):
    """The keys that work now; help stays in sight on the right where there are more than fit."""

    def compose(self) -> ComposeResult:
        """The keys."""
        for item in super().compose():
            if getattr(item, "action", "") == "help":
                item.add_class("-pinned")
            yield item
