"""Sweeps on disk: `runs_dir/sweeps/<id>/`, whose `sweep.json` names the runs and what each tries.

A sweep owns nothing of its runs, which are ordinary ones. A folder without `sweep.json` is no sweep.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nexa.errors import RunError
from nexa.files import read_json, write_json
from nexa.runs.ids import make_folder, pick_id, unwritable
from nexa.runs.store import SWEEPS_FOLDER, AttemptFolder, Run, queue_path, user_name
from nexa.worker.identity import Liveness, ProcessIdentity

SWEEP_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SweepMember:
    """One run of a sweep; number counts from 1, overrides are YAML texts by key."""

    number: int
    run_id: str
    overrides: Mapping[str, str]


class Sweep:
    """One sweep's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_id = path.name

    @cached_property
    def document(self) -> dict[str, Any]:
        """`sweep.json`, which never changes. Raises RunError when it is damaged."""
        document = read_json(self.path / "sweep.json")
        if document is None or document.get("schema") != SWEEP_SCHEMA:
            raise RunError(f"sweep {self.sweep_id} has no sweep.json in {self.path} that this Nexa can read")
        return document

    @property
    def members(self) -> Sequence[SweepMember]:
        """The runs of the sweep, in order."""
        return [
            SweepMember(number=number, run_id=str(member["run_id"]), overrides=member["overrides"])
            for number, member in enumerate(self.document["members"], start=1)
        ]

    def run(self, member: SweepMember) -> Run | None:
        """The run of a member, None where its folder was removed."""
        path = self.path.parent.parent / member.run_id
        return Run(path) if (path / "run.json").is_file() else None

    def runs(self) -> Sequence[Run]:
        """The runs whose folders are there, in order."""
        return [run for member in self.members if (run := self.run(member)) is not None]

    @property
    def queue_path(self) -> Path:
        """File that names the process which starts the runs one after another."""
        return queue_path(self.path.parent.parent, self.sweep_id)

    def queue_liveness(self) -> Liveness | None:
        """Whether the queue's process exists; None where there never was one."""
        process = ProcessIdentity.from_document(read_json(self.queue_path) or {})
        return process.liveness() if process else None

    def next_array(self) -> Path:
        """Make and return the empty folder of the next job array. Raises UserError."""
        folder = self.path / "arrays"
        try:
            folder.mkdir(exist_ok=True)
            made = folder / str(1 + sum(path.name.isdigit() for path in folder.iterdir()))
            made.mkdir()
        except OSError as error:
            raise unwritable(folder, error, what="sweep") from error
        return made


class SweepStore:
    """The folder that holds all sweeps; it need not exist until the first is made."""

    def __init__(self, runs_dir: Path) -> None:
        self.root = runs_dir.absolute() / SWEEPS_FOLDER

    def reserve(self, name: str) -> Sweep:
        """Make an empty folder with a new id; the sweep is listed once it is `fill`ed. Raises UserError."""
        return Sweep(make_folder(self.root, name, (), what="sweep"))

    def fill(self, sweep: Sweep, document: Mapping[str, Any]) -> None:
        """Write `sweep.json`: `document` with schema, id, time, host and user. Raises UserError."""
        identity = {
            "schema": SWEEP_SCHEMA,
            "sweep_id": sweep.sweep_id,
            "created_at": time.time(),
            "host": socket.gethostname(),
            "user": user_name(),
        }
        try:
            write_json(sweep.path / "sweep.json", {**identity, **document})
        except OSError as error:
            raise unwritable(sweep.path, error, what="sweep") from error

    def discard(self, sweep: Sweep) -> None:
        """Remove a reserved sweep of which nothing was started."""
        shutil.rmtree(sweep.path, ignore_errors=True)

    def list(self) -> Sequence[Sweep]:
        """Return all sweeps, newest first."""
        try:
            names = sorted((path.name for path in self.root.iterdir()), reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [Sweep(self.root / name) for name in names if (self.root / name / "sweep.json").is_file()]

    def open(self, reference: str) -> Sweep:
        """Find one sweep by `latest`, id, the unique start of one, or name. Raises RunError."""
        sweeps = self.list()
        if not sweeps:
            raise RunError(f"there are no sweeps in {self.root}", hint="start one with: nexa sweep RECIPE KEY=A,B,C")
        ids = [sweep.sweep_id for sweep in sweeps]
        return sweeps[ids.index(pick_id(reference, ids, what="sweep", listing="nexa sweep list"))]


def is_waiting(attempt: AttemptFolder) -> bool:
    """Whether an attempt was left to a sweep's queue that has not started it."""
    queued = attempt.read("queued")
    if queued is None or "array" in queued:
        return False
    return not any((attempt.path / f"{name}.json").exists() for name in ("job", "supervisor", "exit"))
