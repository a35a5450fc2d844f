"""Keeps one copy of identical large files: by hard link, after both were compared byte by byte.

`.nexa/objects/<2>/<sha256>` is one more name of each large file in the store. Sharing begins after
an artifact is complete and visible, and swaps a file for a link with the same bytes in one rename;
so a failure or kill at any point costs disk space and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nexa.manifest import FileRecord
from nexa_file import disk

# Small files stay separate: they cost nothing, and one damaged block then hurts one artifact only.
MIN_BYTES = 1 << 20


def share(control: Path, scratch: Path, folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Let the files of an artifact share space with identical ones that the store already has.

    `scratch` is a private folder on the same file system.
    """
    for path, record in records.items():
        if record.bytes >= MIN_BYTES:
            with suppress(OSError):
                _share_file(_object_path(control, record), scratch / "link", folder / path)


def remove_unshared(control: Path) -> None:
    """Forget the files that no artifact has any more; the caller holds the store's lock."""
    with suppress(FileNotFoundError):
        for shelf in list(os.scandir(control / "objects")):
            for entry in list(os.scandir(shelf.path)):
                if entry.stat(follow_symlinks=False).st_nlink == 1:
                    disk.os.unlink(entry.path)
            with suppress(OSError):
                disk.os.rmdir(shelf.path)


def _share_file(known: Path, link: Path, path: Path) -> None:
    """Replace `path` by a link to the known file with its content, or make it known."""
    with suppress(FileNotFoundError):
        disk.os.unlink(link)
    try:
        disk.os.link(known, link)
    except FileNotFoundError:
        disk.make_folders(known.parent)
        disk.os.link(path, known)
        return
    if disk.same_content(link, path):
        disk.os.rename(link, path)
        disk.sync_folder(path.parent)
    else:
        # The known file was damaged after it was stored: the new one takes its place.
        disk.os.unlink(link)
        disk.os.link(path, link)
        disk.os.rename(link, known)


def _object_path(control: Path, record: FileRecord) -> Path:
    """Where a file with this content is known by its hash."""
    return control / "objects" / record.sha256[:2] / record.sha256
