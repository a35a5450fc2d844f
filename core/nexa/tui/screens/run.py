"""The Run screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class RunScreen(NexaScreen):
    """The Run screen."""

    ENTRY = "run"

    def open(self, run_id: str) -> None:
        """Show another run."""
