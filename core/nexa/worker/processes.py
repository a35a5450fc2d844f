"""Finds and ends every process of an attempt on this machine, however they were started.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

from nexa.files import read_json
from nexa.worker.command import ATTEMPT_VARIABLE, RUN_DIR_VARIABLE
from nexa.worker.identity import Liveness, ProcessIdentity, stat_fields

_POLL_SECONDS = 0.05


def processes_of(run_dir: Path, attempt: int | None = None) -> list[int]:
    """Return the pids of a run's living processes on this machine, of one attempt or of all.

    These are those recorded in the run directory and, on Linux, all that carry the run's mark in their
    environment, also orphans. The caller and its ancestors are never among them.
    """
    found = _recorded(run_dir, attempt)
    if sys.platform.startswith("linux"):
        found |= _marked(run_dir, attempt)
    return sorted(found - _own_line())


def _marked(run_dir: Path, attempt: int | None) -> set[int]:
    directory_mark = f"{RUN_DIR_VARIABLE}={run_dir}".encode()
    attempt_mark = None if attempt is None else f"{ATTEMPT_VARIABLE}={attempt}".encode()
    found = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            variables = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if directory_mark in variables and (attempt_mark is None or attempt_mark in variables):
            fields = stat_fields(int(entry.name))
            if fields and fields[0] not in {"Z", "X"}:
                found.add(int(entry.name))
    return found


def _recorded(run_dir: Path, attempt: int | None) -> set[int]:
    folders = (run_dir / "attempts").glob("*" if attempt is None else str(attempt))
    paths = [path for folder in folders for path in (folder / "supervisor.json", *folder.glob("workers/*.json"))]
    identities = [ProcessIdentity.from_document(read_json(path) or {}) for path in paths]
    return {identity.pid for identity in identities if identity and identity.liveness() is Liveness.ALIVE}


def _own_line() -> set[int]:
    """The calling process and its ancestors."""
    line = {os.getpid()}
    parent = os.getppid()
    while parent > 1 and parent not in line:
        line.add(parent)
        fields = stat_fields(parent)
        parent = int(fields[1]) if fields else 0
    return line


def end_processes(
    run_dir: Path,
    attempt: int | None,
    *,
    grace_seconds: float,
    timeout_seconds: float = 30.0,
    spare: Collection[int] = (),
) -> list[int]:
    """End every process of an attempt: SIGTERM, after `grace_seconds` SIGKILL, until none is left.

    Returns the pids still there after `timeout_seconds` more (stuck in the kernel, or another
    user's), empty when all are gone.
    """
    started = time.monotonic()
    terminated: set[int] = set()
    while True:
        left = [pid for pid in processes_of(run_dir, attempt) if pid not in spare]
        elapsed = time.monotonic() - started
        if not left or elapsed > grace_seconds + timeout_seconds:
            return left
        for pid in left:
            if elapsed >= grace_seconds:
                _signal(pid, signal.SIGKILL)
            elif pid not in terminated:
                terminated.add(pid)
                _signal(pid, signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
