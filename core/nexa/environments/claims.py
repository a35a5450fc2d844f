"""Which runs still need what lies among the environments, so that nothing is removed under one.

    runs/HASH.json          one run: its folder, its machine, and the code and environments it was planned with

A run claims these before its first worker starts. Its claim stands until the run is complete or its folder is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexa.environments.code import CODE
from nexa.files import read_json, write_json

_CLAIMS = "runs"
# Code is placed before the run that claims it has a folder; a launch may also wait there for a person's answer.
GRACE_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one run needs. code: names of folders of code. environments: digests."""

    path: Path
    run_dir: Path
    host: str
    code: Sequence[str]
    environments: Sequence[str]


def claim(root: Path, run_dir: Path, *, code: str, environment: str) -> None:
    """Record that a run needs this code and this environment, "" for none, beside those it claimed before.

    Where the folder belongs to other people, who share it for reading alone, nothing is recorded.
    """
    path = root / _CLAIMS / f"{hashlib.sha256(str(run_dir).encode()).hexdigest()[:32]}.json"
    before = _read(path)
    document = {
        "run": str(run_dir),
        "host": socket.gethostname(),
        "code": sorted({code, *(before.code if before else ())}),
        "environments": sorted({environment, *(before.environments if before else ())} - {""}),
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)


def drop_claims(root: Path) -> list[Claim]:
    """Remove the claims that no longer stand, and return those that do."""
    from nexa.runs.state import State, run_statuses
    from nexa.runs.store import Run

    claims, standing = list(_claims(root)), []
    here = [each for each in claims if (each.run_dir / "run.json").is_file()]
    states = {
        each.path: status.state
        for each, status in zip(here, run_statuses([Run(each.run_dir) for each in here]), strict=True)
    }
    for each in claims:
        gone = each.path not in states and each.host == socket.gethostname() and not _is_young(each.path)
        if gone or states.get(each.path) is State.COMPLETED:
            with contextlib.suppress(OSError):
                each.path.unlink()
        else:
            # A folder that can't be seen may be on the own disk of the machine that launched the run.
            standing.append(each)
    return standing


def live_users(root: Path, digest: str) -> list[str]:
    """Ids of the runs that may be working in an environment now."""
    from nexa.runs.state import run_statuses
    from nexa.runs.store import Run

    runs = [Run(each.run_dir) for each in _claims(root) if digest in each.environments]
    return [run.run_id for run, status in zip(runs, run_statuses(runs), strict=True) if status.active]


def unneeded_code(root: Path, standing: Sequence[Claim]) -> Iterator[Path]:
    """Copies of the workers' code that no standing claim names and that no launch is just about to use."""
    needed = {name for each in standing for name in each.code}
    with contextlib.suppress(OSError):
        for folder in sorted((root / CODE).iterdir()):
            if folder.name not in needed and not _is_young(folder):
                yield folder


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < GRACE_SECONDS
    except OSError:
        return True


def _claims(root: Path) -> Iterator[Claim]:
    with contextlib.suppress(OSError):
        for path in sorted((root / _CLAIMS).glob("*.json")):
            found = _read(path)
            if found is not None:
                yield found


def _read(path: Path) -> Claim | None:
    document = read_json(path) or {}
    try:
        return Claim(
            path=path,
            run_dir=Path(document["run"]),
            host=document["host"],
            code=tuple(document["code"]),
            environments=tuple(document["environments"]),
        )
    except KeyError:
        # Absent, cut off, or of another format.
        return None
