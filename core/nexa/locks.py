"""A lock that is a folder naming its living owner, for work that one of many processes must do.

Works on shared file systems and between machines, where `flock` may not. A lock whose owner is gone is taken
over: on the same machine at once, from another machine when the owner gave no sign of life for a minute.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nexa.files import read_json, write_json
from nexa.worker.identity import Liveness, ProcessIdentity

SILENCE_SECONDS = 60.0
"""An owner on another machine that gave no sign of life for this long is taken for gone."""
_SIGN_SECONDS = 10.0
_POLL_SECONDS = 0.1
_DEAD = "dead"


@contextmanager
def owned_lock(folder: Path, *, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock `folder` while the block runs, waiting for whoever holds it.

    on_wait: called about ten times a second while waiting with who holds the lock, in words; what it
    raises ends the wait. Raises OSError where the folder can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(folder)
    while (owner := _take(folder)) is None:
        if not watch.clear_if_dead():
            if on_wait is not None:
                on_wait(watch.holder)
            time.sleep(_POLL_SECONDS)
    done = threading.Event()
    sign = threading.Thread(target=_give_signs, args=(owner, done), name="lock owner", daemon=True)
    sign.start()
    try:
        yield
    finally:
        done.set()
        sign.join()
        _clear(folder, owner)


def _take(folder: Path) -> Path | None:
    """Try once: the path of the owner's record when the lock is ours, None when another has it."""
    token = os.urandom(8).hex()
    mine = folder.with_name(f"{folder.name}.{token}")
    mine.mkdir()
    try:
        write_json(mine / f"owner-{token}.json", ProcessIdentity.current().document())
        # Renaming onto a folder that holds something fails, so a lock never exists without its owner.
        mine.rename(folder)
    except OSError as error:
        shutil.rmtree(mine, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return None
        raise
    return folder / f"owner-{token}.json"


def _clear(folder: Path, owner: Path) -> bool:
    """Remove the lock if it is still this owner's; of several callers, one succeeds."""
    try:
        owner.rename(folder / _DEAD)
    except OSError:
        return False
    grave = folder.with_name(f"{folder.name}.{os.urandom(8).hex()}")
    with contextlib.suppress(OSError):
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
    return True


def _give_signs(owner: Path, done: threading.Event) -> None:
    while not done.wait(_SIGN_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(owner)


class _Watch:
    """What a waiting process knows about the lock's owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[str, int] | None = None
        self._since = 0.0
        self.holder = "another process"

    def clear_if_dead(self) -> bool:
        """Remove the lock when its owner is gone; True when it may be tried again at once."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return True
        owner = next((self._folder / name for name in names if name.startswith("owner-")), None)
        identity = ProcessIdentity.from_document(read_json(owner) or {}) if owner else None
        if owner is not None and identity is not None:
            self.holder = f"process {identity.pid} on {identity.host}"
            liveness = identity.liveness()
            if liveness is Liveness.ALIVE:
                return False
            if liveness in (Liveness.GONE, Liveness.REBOOTED):
                return _clear(self._folder, owner)
        return self._silent(owner or self._folder / _DEAD) and self._remove_silent(owner)

    def _silent(self, sign: Path) -> bool:
        """Whether the sign of life did not change for a minute of this process's own clock."""
        try:
            seen = (sign.name, sign.stat().st_mtime_ns)
        except OSError:
            return False
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > SILENCE_SECONDS

    def _remove_silent(self, owner: Path | None) -> bool:
        if owner is not None:
            return _clear(self._folder, owner)
        # Someone died between marking the lock as dead and removing it.
        shutil.rmtree(self._folder, ignore_errors=True)
        return True
