"""Places on this machine: paths as recipes write them, and the user's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexa_torch.sources import PACKAGE_SCHEME, packaged_path


def local_path(name: str) -> Path:
    """A path as written in a recipe: `pkg:PACKAGE/FILE` resolved, `~` expanded; it need not exist."""
    return packaged_path(name) if name.startswith(PACKAGE_SCHEME) else Path(name).expanduser()


def store_in_cache(target: Path, write: Callable[[Path], Any]) -> None:
    """Make the folder `target` with what `write` puts into it, whole or not at all.

    A cache that can't be written is done without: nothing is raised, and `target` stays absent.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError:
        return
    try:
        write(staging)
        for file in staging.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        staging.rename(target)
    # A full disk, which writers report each in their own way, or another process that came first.
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
