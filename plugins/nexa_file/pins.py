"""Pins: one small file per protected artifact, so that pinning needs no file that many write."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nexa_file import disk

# Not a character of names, so a pin's file name gives back the artifact's name.
_SLASH = ","


def read(control: Path) -> frozenset[str]:
    """Return the names of the pinned artifacts."""
    try:
        return frozenset(entry.name.replace(_SLASH, "/") for entry in os.scandir(control / "pins"))
    except FileNotFoundError:
        return frozenset()


def write(control: Path, name: str, pinned: bool) -> None:
    """Record, durably, whether an artifact is pinned; the caller holds the store's lock."""
    folder = control / "pins"
    path = folder / name.replace("/", _SLASH)
    if pinned:
        disk.make_folders(folder)
        with suppress(FileExistsError):
            disk.write_file(path, b"")
        disk.sync_folder(folder)
    else:
        with suppress(FileNotFoundError):
            disk.os.unlink(path)
            disk.sync_folder(folder)
