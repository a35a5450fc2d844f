"""The two lines on top of the Run screen: state and progress with the time left."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from nexa import units
from nexa.events import PREPARATION
from nexa.tui.data.run import RunSnapshot
from nexa.tui.glyphs import LOOKS
from nexa.tui.themes import colour_of

_BAR_CELLS = 28


class RunHead(Static):
    """State, name and place; progress bar, step, time left with its interval."""

    DEFAULT_CSS = """
    RunHead { height: 3; padding: 0 1; background: $background; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    _shown: Text | None = None

    def show(self, snapshot: RunSnapshot) -> None:
        """Show a snapshot; draws only when something reads differently."""
        text = Text("\n").join((self._state_line(snapshot), self._progress_line(snapshot), self._facts_line(snapshot)))
        if text != self._shown:
            self._shown = text
            self.update(text)

    def _colour(self, name: str) -> str:
        return colour_of(self.app, name)

    def _state_line(self, snapshot: RunSnapshot) -> Text:
        look = LOOKS[snapshot.status.state]
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{look.glyph} {snapshot.status.state}", f"bold {self._colour(look.colour)}")
        line.append(f"  {snapshot.facts.get('name') or snapshot.run_id}", "bold")
        if snapshot.status.reason:
            line.append(f"  {snapshot.status.reason}", self._colour("text-muted"))
        return line

    def _progress_line(self, snapshot: RunSnapshot) -> Text:
        status, muted = snapshot.status, self._colour("text-muted")
        line = Text(no_wrap=True, overflow="ellipsis")
        share = (status.step or 0) / status.total_steps if status.total_steps else 0.0
        filled = round(min(1.0, share) * _BAR_CELLS)
        line.append("━" * filled, self._colour(LOOKS[status.state].colour))
        line.append("━" * (_BAR_CELLS - filled), self._colour("chart-faint"))
        if status.phase in PREPARATION or status.step is None:
            line.append(f"  {status.phase or 'not started'}", muted)
            return line
        line.append(f"  {units.steps(status.step, status.total_steps)}", "bold")
        if status.total_steps:
            line.append(f"  {share:.0%}", muted)
        if snapshot.left is not None and snapshot.left.expected > 0:
            left = snapshot.left
            line.append(f"  {units.duration(left.expected)} left", "bold")
            low, high = units.duration(left.low), units.duration(left.high)
            if low != high:
                line.append(f" ({low} – {high})", muted)
        elif status.active and status.phase and status.phase != "training":
            line.append(f"  {status.phase}", muted)
        return line

    def _facts_line(self, snapshot: RunSnapshot) -> Text:
        facts, status = snapshot.facts, snapshot.status
        begin, end = status.started_at, status.ended_at or snapshot.now
        parts = [
            f"{facts.get('method')} by {facts.get('backend')}" if facts.get("backend") else "",
            f"on {facts.get('scheduler')}" + (f" · {facts['node']}" if facts.get("node") else "")
            if facts.get("scheduler")
            else "",
            f"attempt {status.attempt}" if (status.attempt or 1) > 1 else "",
            f"{'for' if status.active else 'took'} {units.duration(end - begin)}" if begin else "",
            f"from {facts['parent']}" if facts.get("parent") else "",
            snapshot.run_id,
        ]
        return Text(
            " · ".join(part for part in parts if part), self._colour("text-muted"), no_wrap=True, overflow="ellipsis"
        )
