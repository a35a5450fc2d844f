"""Takes artifacts away: what may go, in which order, and what killed work left behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.artifacts import StoredArtifact
from nexa.errors import ArtifactExistsError
from nexa_file import claims, disk, names, pins, sharing

if TYPE_CHECKING:
    from nexa_file.store import FileStore


def collect(store: FileStore, root: Path, control: Path, candidates: Sequence[str], *, dry_run: bool) -> Sequence[str]:
    """Remove those of `candidates` that nothing protects, and litter. Returns the names removed.

    The hashing that finds each run's newest verified checkpoint goes on before the store is locked.
    """
    for name in candidates:
        names.check_name(name)
    newest = _newest_checkpoints(store, set(candidates))
    if dry_run:
        return [artifact.name for artifact in removable(store.list(), candidates, newest)]
    if not root.is_dir():
        return []
    with claims.store_lock(control):
        claims.remove_litter(control)
        removed = []
        for artifact in removable(store.list(), candidates, newest):
            _remove(root, control, artifact.name)
            removed.append(artifact.name)
        disk.remove_tree(control / "trash")
        sharing.remove_unshared(control)
    return removed


def removable(
    artifacts: Sequence[StoredArtifact], candidates: Sequence[str], newest: set[str]
) -> Sequence[StoredArtifact]:
    """Return the candidates that are not pinned, not `newest` and not input of an artifact that stays.

    Ordered so that an artifact comes before its inputs: cut short, nothing loses what it was made from.
    """
    wanted = set(candidates) - newest
    going = {artifact.name: artifact for artifact in artifacts if artifact.name in wanted and not artifact.pinned}
    pending = [artifact for artifact in artifacts if artifact.name not in going]
    by_reference: dict[str, list[StoredArtifact]] = {}
    for artifact in artifacts:
        for reference in (artifact.name, artifact.meta.hash, artifact.meta.uri):
            by_reference.setdefault(reference, []).append(artifact)
    while pending:
        for reference in pending.pop().meta.inputs:
            for needed in by_reference.get(reference, ()):
                if going.pop(needed.name, None):
                    pending.append(needed)
    return sorted(going.values(), key=lambda artifact: (artifact.meta.created_at, artifact.name), reverse=True)


def set_aside(control: Path, folder: Path, name: str, seen: os.stat_result) -> None:
    """Move a damaged artifact out of the way, keeping what is left of it.

    `seen` identifies the folder that was found damaged. Raises ArtifactExistsError when another
    has taken its place since. The caller holds the store's lock.
    """
    now = os.lstat(folder)
    if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
        raise ArtifactExistsError(f"the artifact {name} exists already")
    shelf = control / "set-aside"
    disk.make_folders(shelf)
    disk.os.rename(folder, shelf / f"{name.replace('/', ',')}.{secrets.token_hex(4)}")
    disk.sync_folder(folder.parent)


def prune(folder: Path, root: Path) -> None:
    """Remove a folder and its parents below the root as far as they are empty.

    The caller holds the store's lock, so no commit is about to use them.
    """
    with suppress(OSError):
        while folder != root:
            if folder.is_dir():
                disk.os.rmdir(folder)
            folder = folder.parent


def _remove(root: Path, control: Path, name: str) -> None:
    """Make an artifact vanish in one step, then remove its files."""
    folder = names.locate(root, name)
    trash = control / "trash"
    disk.make_folders(trash)
    grave = trash / secrets.token_hex(8)
    disk.os.rename(folder, grave)
    disk.sync_folder(folder.parent)
    pins.write(control, name, False)
    disk.remove_tree(grave)
    prune(folder.parent, root)


def _newest_checkpoints(store: FileStore, candidates: set[str]) -> set[str]:
    """For each folder with an artifact among the candidates, the newest checkpoint in it that verifies."""
    newest: set[str] = set()
    for folder in {name.rpartition("/")[0] for name in candidates} - {""}:
        checkpoints = (a.name for a in reversed(store.list(folder)) if a.meta.kind == "checkpoint")
        newest.update(islice((name for name in checkpoints if store.is_whole(name)), 1))
    return newest
