"""The Runs screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class RunsScreen(NexaScreen):
    """The Runs screen."""

    ENTRY = "runs"
