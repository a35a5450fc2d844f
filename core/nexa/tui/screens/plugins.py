"""The Plugins screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class PluginsScreen(NexaScreen):
    """The Plugins screen."""

    ENTRY = "plugins"
