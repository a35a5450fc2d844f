"""Turns a staged folder into the content of an artifact: moved or copied in, hashed once, synced."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nexa.artifacts import MANIFEST_NAME
from nexa.errors import ArtifactError
from nexa.manifest import FileRecord
from nexa_file import disk
from nexa_file.tree import Tree, in_parallel, scan

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# Room for the manifest and the file system's own bookkeeping.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Placement:
    """Where staged files are now, and what is needed to give them back.

    source: where the caller staged them. content: the folder they are in now. moved: whether
    `source` itself became `content`, rather than being copied.
    """

    source: Path
    content: Path
    moved: bool
    tree: Tree


def scan_staged(staged: Path, name: str) -> Tree:
    """Return what is staged. Raises ArtifactError for what can't become an artifact."""
    try:
        if not stat.S_ISDIR(os.lstat(staged).st_mode):
            raise ArtifactError(f"can't commit {name}: {staged} is not a folder")
    except FileNotFoundError:
        raise ArtifactError(f"can't commit {name}: there is no folder {staged}") from None
    tree = scan(staged)
    problems = [f"{damage.file} {damage.message}" for damage in tree.oddities]
    if MANIFEST_NAME in tree.files or MANIFEST_NAME in tree.folders:
        problems.append(f"{MANIFEST_NAME} is a name that the store writes itself")
    seen: dict[str, str] = {}
    for path in [*tree.files, *tree.folders]:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            problems.append(f"{path} differs only in case from {other}")
    if not tree.files:
        problems.append("it holds no file")
    if problems:
        raise ArtifactError(f"can't commit {name} from {staged}: " + "; ".join(problems))
    return tree


def place(staged: Path, content: Path, tree: Tree) -> Placement:
    """Bring the staged files to `content`: by rename where that is possible, else as copies to be.

    A file with a second name could be changed through it later, so such files are copied.
    """
    if all(status.st_nlink == 1 for status in tree.files.values()):
        try:
            disk.os.rename(staged, content)
            return Placement(staged, content, True, tree)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    _require_space(content.parent, sum(status.st_size for status in tree.files.values()))
    return Placement(staged, content, False, tree)


def settle(placement: Placement) -> dict[str, FileRecord]:
    """Make the placed files read-only and durable, and return their sizes and hashes.

    Each file is read once; hashing one and syncing it go on at the same time.
    """
    content, tree = placement.content, placement.tree
    kept = parents_of(tree)
    if placement.moved:
        for folder in reversed(tree.folders):
            if folder not in kept:
                disk.os.rmdir(content / folder)
        for path, status in tree.files.items():
            disk.os.chmod(content / path, stat.S_IMODE(status.st_mode) & ~_WRITABLE)
        tasks = [(task, path) for path in _largest_first(tree) for task in (disk.hash_file, disk.sync_file)]
        results = in_parallel(lambda task: task[0](content / task[1]), tasks)
        found = {path: result for (_, path), result in zip(tasks, results, strict=True) if result is not None}
    else:
        disk.os.mkdir(content)
        for folder in tree.folders:
            if folder in kept:
                disk.os.mkdir(content / folder)
        paths = _largest_first(tree)
        copies = in_parallel(lambda path: disk.copy_file(placement.source / path, content / path), paths)
        found = dict(zip(paths, copies, strict=True))
        for path, status in tree.files.items():
            disk.os.chmod(content / path, stat.S_IMODE(status.st_mode) & ~_WRITABLE)
    return {path: FileRecord(*found[path]) for path in sorted(found)}


def seal(placement: Placement, manifest: bytes) -> None:
    """Write the manifest, last of all files, and sync every folder."""
    disk.write_file(placement.content / MANIFEST_NAME, manifest, mode=0o444)
    for folder in sorted(parents_of(placement.tree), reverse=True):
        disk.sync_folder(placement.content / folder)


def give_back(placement: Placement) -> None:
    """Undo `place`: the caller's folder is where it was, with its files as they were."""
    if not placement.moved:
        return
    with suppress(FileNotFoundError):
        disk.os.unlink(placement.content / MANIFEST_NAME)
    for path, status in placement.tree.files.items():
        disk.os.chmod(placement.content / path, stat.S_IMODE(status.st_mode))
    disk.os.rename(placement.content, placement.source)


def consume(placement: Placement) -> None:
    """Remove the staged originals of an artifact that was copied in and is durable now."""
    if not placement.moved:
        with suppress(OSError):
            disk.remove_tree(placement.source)


def parents_of(tree: Tree) -> set[str]:
    """The folders that hold files, directly or below; "." is the artifact itself."""
    return {str(parent) for path in tree.files for parent in PurePosixPath(path).parents}


def _largest_first(tree: Tree) -> list[str]:
    """File paths in the order in which to work on them: the largest decides when all are done."""
    return sorted(tree.files, key=lambda path: -tree.files[path].st_size)


def _require_space(folder: Path, needed: int) -> None:
    """Raise ArtifactError when a copy of `needed` bytes does not fit on the file system of `folder`."""
    statistics = disk.os.statvfs(folder)
    free = statistics.f_bavail * statistics.f_frsize
    if needed + _SPARE_BYTES > free:
        raise ArtifactError(
            f"{needed:,} bytes do not fit in the store: {free:,} are free on its file system",
            hint="make room with: nexa artifacts gc --keep-last 1",
        )
