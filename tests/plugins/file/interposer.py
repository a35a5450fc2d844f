"""Stands between the store and the operating system, to kill, fail or record single calls."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from nexa_file import disk

# Every call with which the store reads or changes files; os.path and the like pass through.
CHANGES = frozenset(["chmod", "fchmod", "fsync", "link", "mkdir", "open", "rename", "rmdir", "unlink", "write"])
CALLS = CHANGES | {"fstat", "pread", "readv", "scandir", "statvfs"}


class Interposer:
    """Takes the place of `os` in nexa_file.disk; `around` decides what becomes of each call."""

    def __init__(self, monkeypatch: Any) -> None:
        self.count = 0
        self._lock = threading.Lock()
        real = disk._renameat2
        monkeypatch.setattr(disk, "os", self)
        monkeypatch.setattr(disk, "_renameat2", lambda *args: self._call("renameat2", real, args, {}))

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real
        return lambda *args, **kwargs: self._call(name, real, args, kwargs)

    def _call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            self.count += 1
            number = self.count
        return self.around(number, name, real, args, kwargs)

    def around(
        self, number: int, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Carry out call `number`, counted from 1."""
        return real(*args, **kwargs)


class Killer(Interposer):
    """Ends the process with SIGKILL before or after one call."""

    def __init__(self, monkeypatch: Any, number: int, *, after: bool) -> None:
        super().__init__(monkeypatch)
        self._number = number
        self._after = after

    def around(self, number, name, real, args, kwargs):
        if number == self._number and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if number == self._number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class Failer(Interposer):
    """Makes one call fail with an errno."""

    def __init__(self, monkeypatch: Any, number: int, error: int) -> None:
        super().__init__(monkeypatch)
        self._number = number
        self._error = error
        self.failed: str | None = None

    def around(self, number, name, real, args, kwargs):
        if number == self._number:
            self.failed = name
            raise OSError(self._error, os.strerror(self._error), str(args[0]) if args else None)
        return real(*args, **kwargs)


class ShortWriter(Interposer):
    """Writes only part of what it is given, as a system call may."""

    def around(self, number, name, real, args, kwargs):
        if name == "write":
            return real(args[0], args[1][: max(1, len(args[1]) // 3)])
        return real(*args, **kwargs)
