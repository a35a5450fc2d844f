"""What the UI remembers between sessions: theme, pinned runs, how each run's charts are shown."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexa.files import read_json, write_json

# Charts of runs that nobody has looked at for long are forgotten, so that the file stays small.
_MOST_RUNS = 200


def preferences_path() -> Path:
    """The user's file of UI preferences; it need not exist."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nexa" / "tui.json"


@dataclass
class Preferences:
    """Remembered choices; kept in memory alone without a path.

    theme: name of the theme, empty for the default. pinned: run ids shown first. charts: by run id,
    how its charts are shown (JSON values). values: by name, what a screen remembers (JSON values).
    """

    path: Path | None = None
    theme: str = ""
    pinned: set[str] = field(default_factory=set)
    charts: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Preferences:
        """Read preferences; a missing or damaged file means defaults."""
        document = read_json(path) or {}
        pinned, charts, values = document.get("pinned"), document.get("charts"), document.get("values")
        return cls(
            path=path,
            theme=str(document.get("theme") or ""),
            pinned={str(run_id) for run_id in pinned} if isinstance(pinned, list) else set(),
            charts={k: v for k, v in charts.items() if isinstance(v, dict)} if isinstance(charts, dict) else {},
            values=values if isinstance(values, dict) else {},
        )

    def remember_charts(self, run_id: str, state: dict[str, Any]) -> None:
        """Keep how a run's charts are shown."""
        self.charts.pop(run_id, None)
        self.charts[run_id] = state
        while len(self.charts) > _MOST_RUNS:
            del self.charts[next(iter(self.charts))]
        self.save()

    def save(self) -> None:
        """Write the preferences; a folder that can't be written loses them, which harms nothing."""
        if self.path is None:
            return
        document = {"theme": self.theme, "pinned": sorted(self.pinned), "charts": self.charts, "values": self.values}
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, document)
