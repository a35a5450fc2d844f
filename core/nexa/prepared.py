"""Prepared data: folders made once from data and settings, and named by a hash of both.

    <cache>/prepared/<key>/index.json     written last: what the folder holds, with size and SHA-256 of every file
    <cache>/prepared/.building-<key>/     work in progress; finished parts in it survive a kill and are used again
    <cache>/prepared/.lock-<key>/         who is at work (see `nexa.locks`)

What the files hold is the backend's matter. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.errors import DataError, UserError
from nexa.files import read_json, sync, write_json
from nexa.locks import owned_lock

INDEX = "index.json"
_BUILDING, _LOCK = ".building-", ".lock-"
Fill = Callable[[Path], Mapping[str, Any]]
"""Writes a folder's files and returns the fields of its index; called again after a kill with what it left."""


def cache_root() -> Path:
    """Folder for what can be made again: $NEXA_CACHE_DIR, else `nexa` in the user's cache folder."""
    own = os.environ.get("NEXA_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexa"


@dataclass(frozen=True, kw_only=True)
class PreparedEntry:
    """One finished folder. `index` is its index.json: "key", "created_at", "files", and the backend's own fields."""

    key: str
    path: Path
    index: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Size of all that lies in the folder."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def parts(self, name: str) -> list[PreparedEntry]:
        """Finished folders in the folder's own folder `name`: what was worked out over this one."""
        return PreparedCache(self.path, name).list()

    @property
    def used_at(self) -> float:
        """When the folder was last used, in seconds since the epoch."""
        return (self.path / INDEX).stat().st_mtime

    def mark_used(self) -> None:
        """Remember that the folder is in use now; a read-only folder is left as it is."""
        try:
            os.utime(self.path / INDEX)
        except OSError:
            return


class PreparedCache:
    """The prepared folders below a cache folder, or below another folder's `name`."""

    def __init__(self, root: Path, name: str = "prepared") -> None:
        self.folder = root / name

    def list(self) -> list[PreparedEntry]:
        """All finished folders, the newest first."""
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        found = [entry for entry in map(self.get, names) if entry is not None]
        return sorted(found, key=lambda entry: -float(entry.index["created_at"]))

    def get(self, key: str) -> PreparedEntry | None:
        """The finished folder of this key, None where there is none."""
        path = self.folder / key
        index = read_json(path / INDEX)
        if index is None or index.get("key") != key or not isinstance(index.get("files"), dict):
            return None
        return PreparedEntry(key=key, path=path, index=index)

    def find(self, reference: str) -> PreparedEntry:
        """The folder whose key is or begins with `reference`. Raises UserError where none or several do."""
        found = [entry for entry in self.list() if entry.key.startswith(reference)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{reference!r} begins {len(found)} keys: {', '.join(entry.key for entry in found)}")
        raise UserError(f"there is no prepared data {reference!r} in {self.folder}", hint="type: nexa data list")

    def build(self, key: str, fill: Fill, *, on_wait: Callable[[str], None] | None = None) -> PreparedEntry:
        """The folder of `key`, made by `fill` unless it exists; of processes that ask at once, one makes it.

        on_wait: called while another process is at work; see `nexa.locks.owned_lock`. What `fill` raises
        leaves its finished parts for the next try. Raises UserError where the cache can't be written.
        """
        entry = self.get(key)
        if entry is None:
            try:
                with owned_lock(self.folder / f"{_LOCK}{key}", on_wait=on_wait):
                    entry = self.get(key) or self._make(key, fill)
            except OSError as error:
                raise UserError(
                    f"prepared data can't be written to {self.folder}: {error.strerror or error}",
                    hint="set data.local_cache_root (or NEXA_CACHE_DIR) to a folder with room; "
                    "finished parts are kept and used again",
                ) from None
        entry.mark_used()
        return entry

    def _make(self, key: str, fill: Fill) -> PreparedEntry:
        building = self.folder / f"{_BUILDING}{key}"
        building.mkdir(exist_ok=True)
        fields = fill(building)
        files = {
            name: {"bytes": (building / name).stat().st_size, "sha256": hash_file(building / name)}
            for name in sorted(path.name for path in building.iterdir())
            if name != INDEX
        }
        write_json(building / INDEX, {**fields, "key": key, "created_at": time.time(), "files": files})
        for name in files:
            sync(building / name)
        sync(building)
        building.rename(self.folder / key)
        sync(self.folder)
        entry = self.get(key)
        assert entry is not None
        return entry

    def remove(self, entry: PreparedEntry) -> None:
        """Remove a folder; processes that use it now keep what they have mapped."""
        grave = self.folder / f".removed-{entry.key}-{os.getpid()}"
        try:
            entry.path.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave)

    def remove_litter(self) -> int:
        """Remove unfinished work that nobody is at, and return how many folders that were."""
        if not self.folder.is_dir():
            return 0
        count = 0
        for path in sorted(self.folder.glob(".*")):
            key = path.name.removeprefix(_BUILDING)
            if path.name.startswith(_BUILDING) and not (self.folder / f"{_LOCK}{key}").exists():
                shutil.rmtree(path)
                count += 1
            elif path.name.startswith(".removed-"):
                shutil.rmtree(path)
        return count


def damages(entry: PreparedEntry, sha256_of: Callable[[Path], str] | None = None) -> Iterator[str]:
    """What is wrong with a folder's files, one line each; nothing when every hash is right.

    sha256_of: hashes a file; by default it is read whole.
    """
    for name, recorded in entry.index["files"].items():
        path = entry.path / name
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                yield f"{path} has {size:,} bytes instead of {int(recorded['bytes']):,}"
            elif (sha256_of or hash_file)(path) != recorded["sha256"]:
                yield f"{path} does not have the SHA-256 it was written with"
        except OSError as error:
            yield f"{path} can't be read: {error.strerror}"


def require_whole(entry: PreparedEntry, sha256_of: Callable[[Path], str] | None = None) -> None:
    """Raise DataError naming the first damaged file of a folder, and what to type."""
    damage = next(damages(entry, sha256_of), None)
    if damage is not None:
        raise DataError(
            f"prepared data is damaged: {damage}",
            hint=f"it is made anew after: nexa data remove {entry.key[:12]} --cache {entry.path.parent.parent}",
        )


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
