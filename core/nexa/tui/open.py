"""Opens the UI: settings, flags and preferences become an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa.tui.preferences import Preferences, preferences_path
from nexa.tui.services import Services

if TYPE_CHECKING:
    from nexa.tui.app import NexaApp


def make_app(*, run: str | None = None, readonly: bool = False, ascii: bool = False) -> NexaApp:
    """The app over the user's settings.

    run: RUN as commands take it, shown first. Raises RunError when there is no such run, UserError
    for settings that can't be.
    """
    from nexa.settings import get_settings
    from nexa.tui.app import NexaApp

    settings = get_settings()
    services = Services(
        settings=settings, readonly=readonly, ascii=ascii, preferences=Preferences.load(preferences_path())
    )
    run_id = services.store.open(run).run_id if run is not None else None
    return NexaApp(services, run_id=run_id, keymap=settings.tui.keys)
