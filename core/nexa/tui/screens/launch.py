"""The Launch screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class LaunchScreen(NexaScreen):
    """The Launch screen."""

    ENTRY = "launch"
