"""What lies near a path that does not exist, for messages."""

from __future__ import annotations

import difflib
from pathlib import Path

_SHOWN = 10


def nearby(path: Path) -> str | None:
    """A likely spelling of a missing path, or what its nearest existing folder holds; None where nothing exists."""
    parent = path.parent
    while not parent.is_dir():
        if parent == parent.parent:
            return None
        path, parent = parent, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {parent / close[0]}?"
    return f"{parent} holds: {', '.join(names[:_SHOWN]) or 'nothing'}"
