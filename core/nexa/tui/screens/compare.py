"""The Compare screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class CompareScreen(NexaScreen):
    """The Compare screen."""

    ENTRY = "compare"
