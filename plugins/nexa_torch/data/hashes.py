"""SHA-256 of large files, computed again only when the file may have changed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from nexa.files import read_json, write_json
from nexa.prepared import hash_file

# A file written in the same tick of the file system's clock as it was hashed could change unseen.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """Data that had another hash when it was last looked at: `before` is that hash, `at` when, in epoch seconds."""

    before: str
    at: float


class HashMemory:
    """Hashes remembered in `folder` by name and signature: a file's size, times and inode, or what else tells it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "hashes"

    def of_file(self, path: Path) -> str:
        """SHA-256 of a file's bytes in hex. Raises OSError."""
        before = signature(path)
        known = self.recall(str(path.resolve()), before)
        if known is not None:
            return known
        found = hash_file(path)
        changed = path.stat().st_ctime
        # A change while it was read gives a hash that fits neither state, and is not kept.
        if signature(path) == before and time.time() - changed > _SETTLED_SECONDS:
            self.remember(str(path.resolve()), before, found)
        return found

    def recall(self, name: str, signature: str) -> str | None:
        """The hash remembered for `name` in this very state, else None."""
        record = read_json(self._path(name)) or {}
        known = record.get("sha256")
        return known if record.get("signature") == signature and isinstance(known, str) else None

    def remember(self, name: str, signature: str, sha256: str) -> None:
        """Keep a hash; a cache that can't be written is done without."""
        record = {"name": name, "signature": signature, "sha256": sha256, "at": time.time()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._path(name), record)
        except OSError:
            return

    def change(self, name: str, sha256: str) -> Change | None:
        """Note the hash of the data called `name`; returns what it was before, where that was something else."""
        record = read_json(self._path(f"data {name}")) or {}
        if record.get("sha256") == sha256:
            return None
        self.remember(f"data {name}", "", sha256)
        return Change(before=record["sha256"], at=record["at"]) if "sha256" in record else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def signature(path: Path) -> str:
    """What changes when a file does: size, times and inode. Raises OSError."""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
