"""Run directories: made once, found by id, by the start of an id, by name, or as `latest`.

The layout (docs/reference/run-directory.md) is the interface between processes and machines. Files
are written whole and once; nothing here locks, so it works on shared file systems.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nexa.errors import RunError, UserError
from nexa.files import read_json, write_json, write_json_once
from nexa.runs.ids import RUNS_DIR_HINT, make_folder, pick_id, unwritable
from nexa.scheduler import Attempt
from nexa.worker.identity import ProcessIdentity
from nexa.worker.place import PLAN_SCHEMA, plan_path

RUN_SCHEMA = 1
SWEEPS_FOLDER = "sweeps"
"""Folder of sweeps below that of runs."""


class AttemptFolder:
    """`attempts/<number>/` of a run: what is known of one try, as files."""

    def __init__(self, run_dir: Path, number: int) -> None:
        self.run_dir = run_dir
        self.number = number
        self.path = run_dir / "attempts" / str(number)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return one of the attempt's JSON files by its name without suffix, None when absent."""
        return read_json(self.path / f"{name}.json")

    def workers(self) -> dict[int, ProcessIdentity]:
        """Identities of the worker processes by rank, as far as they have started."""
        found: dict[int, ProcessIdentity] = {}
        for path in (self.path / "workers").glob("*.json"):
            identity = ProcessIdentity.from_document(read_json(path) or {})
            if identity is not None and path.stem.isdigit():
                found[int(path.stem)] = identity
        return found

    def identity(self, name: str) -> ProcessIdentity | None:
        """The process recorded in one of the attempt's files, None when absent."""
        document = self.read(name)
        return ProcessIdentity.from_document(document) if document else None

    @property
    def events_path(self) -> Path:
        """Event file of rank 0."""
        return self.run_dir / "events" / f"{self.number}-0.jsonl"

    def request(self, what: str, reason: str) -> None:
        """Leave a request ("stop" or "kill") for the attempt; the first one stays. Raises RunError."""
        try:
            write_json_once(self.path / what, {"reason": reason, "requested_at": time.time()})
        except OSError as error:
            raise RunError(
                f"the request can't be written to {self.path}: {error.strerror or error}",
                hint=f"runs belong to the user who started them; check the folder: ls -ld {self.path}",
            ) from error

    def withdraw(self, what: str) -> None:
        """Take back a request that could not be carried out."""
        (self.path / what).unlink(missing_ok=True)

    def requested(self, what: str) -> dict[str, Any] | None:
        """The request of this kind, None when there is none."""
        return read_json(self.path / what)


class Run:
    """One run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self._plans: dict[Path, dict[str, Any]] = {}

    @cached_property
    def document(self) -> dict[str, Any]:
        """`run.json`: what never changes about the run. Raises RunError when it is damaged."""
        document = read_json(self.path / "run.json")
        if document is None:
            raise RunError(f"run {self.run_id} has no readable run.json in {self.path}")
        if document.get("schema") != RUN_SCHEMA:
            raise RunError(
                f"run {self.run_id} was written in run format {document.get('schema')}, this Nexa reads {RUN_SCHEMA}",
                hint=f"it was launched by nexa {document.get('nexa_version')}; use that version",
            )
        return document

    @property
    def plan(self) -> dict[str, Any]:
        """What the workers of the newest attempt do, which a resume may change. Raises RunError when it is damaged."""
        latest = self.latest_attempt
        return self._plan_at(plan_path(self.path, latest.number if latest else 0))

    def _plan_at(self, path: Path) -> dict[str, Any]:
        if path in self._plans:
            return self._plans[path]
        document = read_json(path)
        if document is None:
            raise RunError(f"run {self.run_id} has no readable {path}")
        return self._plans.setdefault(path, document)

    @property
    def name(self) -> str:
        """The run's name, part of its id."""
        return str(self.document["name"])

    @property
    def attempts(self) -> Sequence[AttemptFolder]:
        """All attempts, oldest first."""
        try:
            names = [path.name for path in (self.path / "attempts").iterdir()]
        except FileNotFoundError:
            return []
        return [AttemptFolder(self.path, number) for number in sorted(int(name) for name in names if name.isdigit())]

    @property
    def latest_attempt(self) -> AttemptFolder | None:
        """The newest attempt, None before the first."""
        attempts = self.attempts
        return attempts[-1] if attempts else None

    def create_attempt(
        self,
        number: int,
        *,
        resume_from: str | None,
        reason: str,
        plan: Mapping[str, Any] | None = None,
        queued: Mapping[str, Any] | None = None,
    ) -> Attempt:
        """Begin attempt `number`; of several processes that try at once, one succeeds.

        resume_from: name of the checkpoint artifact to continue from, None for a fresh start. plan: what
        this attempt and those after it follow, None where nothing changes. queued: the sweep and what of it
        starts the attempt, None where the caller does.
        Raises RunError when the attempt exists, UserError when the folder can't be written.
        """
        folder = self.path / "attempts"
        document = {
            "number": number,
            "created_at": time.time(),
            "resume_from": resume_from,
            "reason": reason,
            "launcher": ProcessIdentity.current().document(),
        }
        prepared = folder / f".{number}-{os.urandom(6).hex()}"
        try:
            (prepared / "workers").mkdir(parents=True)
            write_json(prepared / "attempt.json", document)
            for name, content in (("plan", plan), ("queued", queued)):
                if content is not None:
                    write_json(prepared / f"{name}.json", content)
            # Renaming onto a folder that holds files fails, so an attempt appears whole and once.
            prepared.rename(folder / str(number))
        except OSError as error:
            shutil.rmtree(prepared, ignore_errors=True)
            if (folder / str(number)).exists():
                raise RunError(
                    f"attempt {number} of run {self.run_id} was started by another command at this moment",
                    hint=f"see it with: nexa show {self.run_id}",
                ) from None
            raise unwritable(folder, error, what="run") from error
        return Attempt(run_id=self.run_id, run_dir=self.path, number=number)


class RunStore:
    """The folder that holds all runs; it need not exist until the first is created."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def reserve(self, name: str) -> Run:
        """Make an empty run directory with a new id; the run is listed once it is `fill`ed.

        The id sorts by time and is unique: its folder is created exclusively. Raises UserError for
        a name that can't be part of an id or a folder that can't be written.
        """
        folders = ("attempts", "events", "logs", "checkpoints")
        return Run(make_folder(self.root, name, folders, what="run"))

    def fill(self, run: Run, *, document: Mapping[str, Any], recipe_yaml: str, plan: Mapping[str, Any]) -> None:
        """Write the documents of a reserved run; on failure its folder is removed.

        `document` becomes run.json; schema, run_id, created_at, host and user are added. To `plan`,
        schema and run_id are added. Raises UserError when they can't be written.
        """
        identity = {
            "schema": RUN_SCHEMA,
            "run_id": run.run_id,
            "created_at": time.time(),
            "host": socket.gethostname(),
            "user": user_name(),
        }
        try:
            (run.path / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
            write_json(run.path / "plan.json", {"schema": PLAN_SCHEMA, "run_id": run.run_id, **plan})
            # Last: a folder without run.json is no run.
            write_json(run.path / "run.json", {**identity, **document})
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise unwritable(run.path, error, what="run") from error

    def create(self, name: str, *, document: Mapping[str, Any], recipe_yaml: str, plan: Mapping[str, Any]) -> Run:
        """`reserve` and `fill` in one, for callers whose plan does not depend on the run's folder."""
        run = self.reserve(name)
        self.fill(run, document={"name": name, **document}, recipe_yaml=recipe_yaml, plan=plan)
        return run

    def list(self) -> Sequence[Run]:
        """Return all runs, newest first."""
        try:
            names = sorted((path.name for path in self.root.iterdir()), reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"runs in {self.root} can't be read: {error.strerror}", hint=RUNS_DIR_HINT) from error
        return [Run(self.root / name) for name in names if (self.root / name / "run.json").is_file()]

    def open(self, reference: str) -> Run:
        """Find one run: `latest`, an id, the unique start of an id, or the newest of a name.

        Raises RunError, naming what there is, when none or several match.
        """
        runs = self.list()
        if not runs:
            raise RunError(f"there are no runs in {self.root}", hint="start one with: nexa launch quickstart")
        ids = [run.run_id for run in runs]
        return runs[ids.index(pick_id(reference, ids, what="run", listing="nexa runs"))]


def queue_path(runs_dir: Path, sweep_id: str) -> Path:
    """File that names the process which starts a sweep's runs one after another."""
    return runs_dir / SWEEPS_FOLDER / sweep_id / "queue.json"


def user_name() -> str:
    """Name of the user this process runs as, or the number where there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
