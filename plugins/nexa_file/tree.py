"""Looks at a folder of files: what is in it, what does not belong, and what differs from a manifest."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nexa.artifacts import MANIFEST_NAME, Damage
from nexa.errors import ArtifactError
from nexa.manifest import file_records, parse_manifest
from nexa_file import disk

_MAX_THREADS = 64
# Below this, starting a thread takes longer than hashing the file.
_THREAD_BYTES = 1 << 18
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)
T = TypeVar("T")
Signature = frozenset[tuple[str, int, int, int]]


@dataclass
class Tree:
    """A folder's contents; paths are relative and POSIX.

    files: regular files. folders: subfolders, parents before children. oddities: everything that
    can't be part of an artifact, with what it is.
    """

    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    oddities: list[Damage] = field(default_factory=list)


def scan(folder: Path) -> Tree:
    """List a folder's contents, following no link and opening no file."""
    tree = Tree()
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in sorted(os.scandir(folder / prefix), key=lambda entry: entry.name):
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            status = entry.stat(follow_symlinks=False)
            oddity = _oddity(entry.name, status.st_mode)
            if oddity:
                tree.oddities.append(Damage(file=_printable(path), message=oddity))
            elif stat.S_ISDIR(status.st_mode):
                tree.folders.append(path)
                pending.append(path)
            else:
                tree.files[path] = status
    return tree


def signature(folder: Path) -> Signature:
    """What changes when any file of a folder is replaced or written to; no file is read."""
    tree = scan(folder)
    odd = {(damage.file, 0, 0, 0) for damage in tree.oddities}
    return frozenset(odd | {(path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in tree.files.items()})


def in_parallel(task: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Run a task for every item, a thread each up to a limit; the first error is raised."""
    items = list(items)
    if not items:
        return []
    pool = ThreadPoolExecutor(max_workers=min(len(items), _MAX_THREADS), thread_name_prefix="nexa-file")
    try:
        futures: list[Future[T]] = [pool.submit(task, item) for item in items]
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a folder. Raises ArtifactError when it is missing or damaged."""
    try:
        return parse_manifest(disk.read_file(folder / MANIFEST_NAME))
    except FileNotFoundError:
        raise ArtifactError(f"{MANIFEST_NAME} is missing") from None
    except OSError as error:
        raise ArtifactError(f"{MANIFEST_NAME} can't be read: {error.strerror}") from error


def find_damage(folder: Path, name: str) -> list[Damage]:
    """Hash every file of an artifact and return what differs from its manifest, in file order."""
    try:
        document = read_manifest(folder)
    except ArtifactError as error:
        return [Damage(file=MANIFEST_NAME, message=error.message)]
    damages = []
    if document["name"] != name:
        damages.append(Damage(file=MANIFEST_NAME, message=f"is the manifest of {document['name']}"))
    records = file_records(document)
    tree = scan(folder)
    damages += tree.oddities
    odd = {damage.file for damage in tree.oddities}
    damages += [
        Damage(file=path, message="is missing") for path in records if path not in tree.files and path not in odd
    ]
    damages += [
        Damage(file=path, message="is not in the manifest")
        for path in tree.files
        if path not in records and path != MANIFEST_NAME
    ]
    parents = {str(parent) for path in records for parent in Path(path).parents}
    damages += [
        Damage(file=f"{path}/", message="is not in the manifest") for path in tree.folders if path not in parents
    ]
    present = [path for path in records if path in tree.files]

    def compare(path: str) -> Damage | None:
        record = records[path]
        size = tree.files[path].st_size
        if size != record.bytes:
            return Damage(file=path, message=f"has {size} bytes instead of {record.bytes}")
        try:
            found = disk.hash_file(folder / path)
        except OSError as error:
            return Damage(file=path, message=f"can't be read: {error.strerror}")
        if found != (record.bytes, record.sha256):
            return Damage(file=path, message="has been changed: its SHA-256 differs from the manifest")
        return None

    small = [path for path in present if records[path].bytes < _THREAD_BYTES]
    large = [path for path in present if records[path].bytes >= _THREAD_BYTES]
    damages += [damage for damage in [*map(compare, small), *in_parallel(compare, large)] if damage]
    return sorted(damages, key=lambda damage: damage.file)


def _oddity(name: str, mode: int) -> str | None:
    """What keeps an entry from being part of an artifact, None when nothing does."""
    for is_kind, words in _KINDS:
        if is_kind(mode):
            return f"is {words}"
    if not name.isprintable():
        return "has a name with characters that can't be shown"
    return None


def _printable(path: str) -> str:
    """Escape what a terminal would act on."""
    return path if path.isprintable() else ascii(path)[1:-1]
