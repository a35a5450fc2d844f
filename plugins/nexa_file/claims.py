"""Who is at work in a store: the store-wide lock, and the folders of commits in progress.

Everything lies in the store's own folder `.nexa`:

    lock              held for the moments in which names appear and disappear
    staging/<claim>/  one per commit; `lock` in it is held for as long as the commit lives
    trash/            what is being removed
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nexa.errors import ArtifactError
from nexa_file import disk

LOCK_TIMEOUT_SECONDS = 60.0
# A commit on another machine can't be asked whether it lives; none takes this long.
FOREIGN_AGE_SECONDS = 24 * 3600.0
_POLL_SECONDS = 0.005
# Answers of file systems without locks: exclusive rename alone then keeps names unique.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


@dataclass
class Claim:
    """A commit's private folder in the store; removed when the commit ends unless `keep` is set."""

    folder: Path
    keep: bool = False

    @property
    def content(self) -> Path:
        """Where the artifact's files are gathered before they get their name."""
        return self.folder / "content"


@contextmanager
def store_lock(control: Path) -> Iterator[None]:
    """Hold the store's lock. Raises ArtifactError when another process holds it for a minute."""
    disk.make_folders(control)
    descriptor = os.open(control / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while _try_lock(descriptor) is False:
            if time.monotonic() > deadline:
                raise ArtifactError(
                    f"the store at {control.parent} is locked by another process",
                    hint=f"wait for it, or find it with: fuser {control / 'lock'}",
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def claim(control: Path) -> Iterator[Claim]:
    """Make a private folder for one commit, seen as alive by `remove_litter` until it ends."""
    staging = control / "staging"
    with store_lock(control):
        disk.make_folders(staging)
        mine = Claim(staging / f"{secrets.token_hex(8)}.{_host()}")
        disk.os.mkdir(mine.folder)
        descriptor = disk.os.open(mine.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _try_lock(descriptor)
    try:
        yield mine
    finally:
        if not mine.keep:
            with suppress(OSError):
                disk.remove_tree(mine.folder)
        os.close(descriptor)


def remove_litter(control: Path) -> None:
    """Remove what killed commits and removals left; the caller holds the store's lock."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(control / "staging")):
            if _is_dead(Path(entry.path)):
                disk.remove_tree(Path(entry.path))
    disk.remove_tree(control / "trash")


def _is_dead(folder: Path) -> bool:
    """Whether the commit that made this folder is known to be gone."""
    aged = time.time() - folder.stat().st_mtime > FOREIGN_AGE_SECONDS
    if folder.name.partition(".")[2] != _host():
        return aged
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # Folder and lock are made under the store's lock, so its maker was killed in between.
        return True
    try:
        free = _try_lock(descriptor)
    finally:
        os.close(descriptor)
    return aged if free is None else free


def _try_lock(descriptor: int) -> bool | None:
    """Take an exclusive lock without waiting: whether it was free, None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _host() -> str:
    """This machine's name, in characters fit for a file name."""
    return re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename)[:64]
