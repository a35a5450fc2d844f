"""How states look: a glyph, a word and a colour of the theme each, so that none rests on colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from nexa.runs.state import State


@dataclass(frozen=True)
class Look:
    """glyph: one cell. colour: a variable of the theme."""

    glyph: str
    colour: str


LOOKS: dict[State, Look] = {
    State.QUEUED: Look("◌", "text-muted"),
    State.STARTING: Look("◔", "primary"),
    State.RUNNING: Look("●", "success"),
    State.STOPPING: Look("◑", "warning"),
    State.COMPLETED: Look("✓", "success"),
    State.STOPPED: Look("■", "warning"),
    State.FAILED: Look("✗", "error"),
    State.KILLED: Look("✗", "error"),
    State.LOST: Look("?", "error"),
    State.STALE: Look("○", "warning"),
    State.PROBABLY_LOST: Look("?", "warning"),
}
"""Every state."""
