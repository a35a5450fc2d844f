"""The Cluster screen."""

from __future__ import annotations

from nexa.tui.screens.base import NexaScreen


class ClusterScreen(NexaScreen):
    """The Cluster screen."""

    ENTRY = "cluster"
