"""Places on this machine: paths as recipes write them, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from nexa_torch.sources import PACKAGE_SCHEME, packaged_path


def cache_root() -> Path:
    """Folder for what can be made again: $NEXA_CACHE_DIR, else `nexa` in the user's cache folder."""
    own = os.environ.get("NEXA_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexa"


def local_path(name: str) -> Path:
    """A path as written in a recipe: `pkg:PACKAGE/FILE` resolved, `~` expanded; it need not exist."""
    return packaged_path(name) if name.startswith(PACKAGE_SCHEME) else Path(name).expanduser()
