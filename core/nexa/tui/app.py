"""The application: six screens as modes, the keys that work everywhere, and themes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from textual.app import App
from textual.screen import Screen

from nexa.tui.ascii_filter import AsciiFilter
from nexa.tui.keys import bindings, check_keymap
from nexa.tui.screens import SCREENS, entry_named
from nexa.tui.services import Services
from nexa.tui.themes import THEMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nexa.tui.palette import NexaCommands
    from nexa.tui.screens.run import RunScreen


def _commands() -> type[NexaCommands]:
    """The palette's commands; first needed when it is opened."""
    from nexa.tui.palette import NexaCommands

    return NexaCommands


class NexaApp(App[None]):
    """The terminal UI over one folder of runs.

    run_id: open on this run. keymap: keys by binding id, as in `[tui.keys]`. Raises UserError for a
    keymap that can't be.
    """

    TITLE = "nexa"
    CSS_PATH = "nexa.tcss"
    BINDINGS = bindings("global")
    COMMANDS = {_commands}
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (150, "-very-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]

    def __init__(
        self,
        services: Services,
        *,
        run_id: str | None = None,
        keymap: Mapping[str, str] | None = None,
    ) -> None:
        # Textual opens the mode of this name first.
        self.DEFAULT_MODE = "run" if run_id else "runs"  # type: ignore[misc]
        super().__init__()
        self.services = services
        self.run_id = run_id
        """The run that the Run screen shows, None for the newest."""
        self.compared: list[str] = []
        """The runs that the Compare screen shows."""
        for theme in THEMES:
            self.register_theme(theme)
        known = {theme.name for theme in THEMES}
        remembered = services.preferences.theme
        # Nothing is drawn yet that a watcher would have to draw anew.
        self.set_reactive(App.theme, remembered if remembered in known else THEMES[0].name)
        for entry in SCREENS:
            self.add_mode(entry.name, partial(self._make_screen, entry.name))
        self.set_keymap(check_keymap(keymap or {}))
        if services.ascii:
            self._filters.append(AsciiFilter())

    @staticmethod
    def _make_screen(name: str) -> Screen[None]:
        return entry_named(name).load()()

    async def action_open_screen(self, name: str) -> None:
        """Switch to a screen of the bar."""
        if len(self.screen_stack) == 1:
            await self.switch_mode(name)

    async def open_run(self, run_id: str) -> None:
        """Show a run on the Run screen."""
        self.run_id = run_id
        await self.switch_mode("run")
        screen: RunScreen = self.screen  # type: ignore[assignment]
        screen.open(run_id)

    async def compare(self, run_ids: Sequence[str]) -> None:
        """Show runs side by side."""
        self.compared = list(run_ids)
        await self.switch_mode("compare")

    def action_next_theme(self) -> None:
        """Change to the next theme and remember it."""
        names = [theme.name for theme in THEMES]
        place = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(place + 1) % len(names)]
        self.services.preferences.theme = self.theme
        self.services.preferences.save()

    async def action_help(self) -> None:
        """Show every key that works here."""
        from nexa.tui.help import HelpScreen

        if len(self.screen_stack) == 1:
            await self.push_screen(HelpScreen(self.current_mode))

    def action_maximise(self) -> None:
        """Give the focused part the whole screen, or take it back."""
        if self.screen.maximized is not None:
            self.screen.minimize()
        elif self.screen.focused is not None:
            self.screen.maximize(self.screen.focused)
