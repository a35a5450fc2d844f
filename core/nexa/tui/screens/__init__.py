"""The six screens, as a table from which the app, the palette and help are made; each is imported when shown."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.tui.screens.base import NexaScreen


@dataclass(frozen=True, kw_only=True)
class ScreenEntry:
    """One screen: its name, its title in the bar, its class as "module:Class", and what it is for.

    scopes: of the keys (nexa.tui.keys) that work there besides the global ones.
    """

    name: str
    title: str
    target: str
    summary: str
    scopes: tuple[str, ...]

    def load(self) -> type[NexaScreen]:
        """Import the screen's class."""
        module, _, attribute = self.target.partition(":")
        found: type[NexaScreen] = getattr(import_module(module), attribute)
        return found


_HERE = "nexa.tui.screens"
SCREENS = (
    ScreenEntry(
        name="launch",
        title="Launch",
        target=f"{_HERE}.launch:LaunchScreen",
        summary="Choose a recipe, change it, plan it, start it",
        scopes=("launch", "move"),
    ),
    ScreenEntry(
        name="runs",
        title="Runs",
        target=f"{_HERE}.runs:RunsScreen",
        summary="All runs and how they are",
        scopes=("move", "lists", "run"),
    ),
    ScreenEntry(
        name="run",
        title="Run",
        target=f"{_HERE}.run:RunScreen",
        summary="One run: curves, log, meters, checkpoints",
        scopes=("run", "tabs", "charts", "log", "move"),
    ),
    ScreenEntry(
        name="compare",
        title="Compare",
        target=f"{_HERE}.compare:CompareScreen",
        summary="Runs side by side",
        scopes=("compare", "charts", "move"),
    ),
    ScreenEntry(
        name="cluster",
        title="Cluster",
        target=f"{_HERE}.cluster:ClusterScreen",
        summary="Machines, partitions and jobs",
        scopes=("cluster", "move"),
    ),
    ScreenEntry(
        name="plugins",
        title="Plugins",
        target=f"{_HERE}.plugins:PluginsScreen",
        summary="What is installed and what is wrong with it",
        scopes=("plugins", "move"),
    ),
)
"""In the order of their number keys."""


def entry_named(name: str) -> ScreenEntry:
    """The entry of a screen. Raises KeyError."""
    return {entry.name: entry for entry in SCREENS}[name]
