"""Real runs of a small backend, for tests of run store, worker, supervisor and scheduler."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nexa.backend import LaunchSpec, Resources
from nexa.files import read_json
from nexa.recipe.schema import Recipe
from nexa.runs.actions import submit_attempt
from nexa.runs.state import RunStatus, run_status
from nexa.runs.store import Run, RunStore
from nexa.scheduler import Attempt
from nexa.worker.processes import end_processes, processes_of

WORKERS = Path(__file__).parent / "workers"


class Runs:
    """Makes, starts and awaits real local runs below one folder; ends what is left of them."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root / "runs")
        self.store_uri = (root / "artifacts").as_uri()
        self._made: list[Run] = []

    def make(self, name: str = "count", *, processes: int = 1, observers: list[dict] | None = None, **meta: Any) -> Run:
        """Create a run of the counting backend, not started."""
        recipe = Recipe.model_validate(
            {"method": "count", "model": {"name": "none"}, "data": {"remote_uri": "none"}, "meta": meta}
        )
        plan = {
            "recipe": recipe.document(),
            "launch": {
                "python": sys.executable,
                "factory": "counting_backend:CountingBackend",
                "processes_per_node": processes,
                "env": {"PYTHONPATH": str(WORKERS)},
            },
            "resources": {"num_nodes": 1, "gpus_per_node": 0, "processes_per_node": processes},
            "store": {"factory": "nexa_file.store:FileStore", "uri": self.store_uri},
            "observers": observers or [],
            "lineage": {"nexa_version": "0", "dataset": {"uri": "none", "version": None}},
        }
        document = {
            "scheduler": "local",
            "backend": "counting",
            "method": "count",
            "recipe_name": name,
            "argv": ["nexa"],
        }
        run = self.store.create(name, document=document, recipe_yaml="method: count\n", plan=plan)
        self._made.append(run)
        return run

    def start(self, run: Run) -> Run:
        """Submit the first attempt to the local scheduler."""
        attempt = run.create_attempt(1, resume_from=None, reason="launched")
        return self.submit(run, attempt)

    def submit(self, run: Run, attempt: Attempt) -> Run:
        """Hand an attempt to the local scheduler."""
        from nexa_local.scheduler import LocalScheduler

        scheduler = LocalScheduler()
        plan = run.plan
        submission = scheduler.plan(
            None, attempt, LaunchSpec.from_document(plan["launch"]), Resources(**plan["resources"])
        )
        submit_attempt(run, attempt, scheduler, submission)
        return run

    def launch(self, name: str = "count", **options: Any) -> Run:
        """`make` and `start`."""
        return self.start(self.make(name, **options))

    def await_end(self, run: Run, *, seconds: float = 60.0) -> RunStatus:
        """Wait until the run is no longer active; returns its status."""
        return self.await_status(run, lambda status: not status.active, seconds=seconds)

    def await_status(self, run: Run, wanted: Callable[[RunStatus], bool], *, seconds: float = 60.0) -> RunStatus:
        """Wait for a status that `wanted` accepts."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = run_status(run)
            if wanted(status):
                return status
            time.sleep(0.05)
        logs = {path.name: path.read_text(errors="replace")[-2000:] for path in (run.path / "logs").iterdir()}
        raise AssertionError(f"{run.run_id} is {status} after {seconds} s; logs: {logs}")

    def pid(self, run: Run, what: str = "workers/0") -> int:
        """Pid of a worker ("workers/<rank>") or of the supervisor, once it has started."""
        path = run.latest_attempt.path / f"{what}.json"
        deadline = time.monotonic() + 30
        while (document := read_json(path)) is None:
            assert time.monotonic() < deadline, path
            time.sleep(0.02)
        return document["pid"]

    def await_no_processes(self, run: Run) -> None:
        """Wait until no process of the run is left on this machine."""
        deadline = time.monotonic() + 10
        while left := processes_of(run.path):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def store_client(self):
        """The artifact store of these runs."""
        from nexa.worker.checkpoints import load_store

        return load_store({"factory": "nexa_file.store:FileStore", "uri": self.store_uri})

    def end_all(self) -> None:
        """End every process that is left."""
        for run in self._made:
            assert end_processes(run.path, None, grace_seconds=0.0) == []


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """Real local runs; all their processes are gone afterwards."""
    monkeypatch.setenv("NEXA_RUNS_DIR", str(tmp_path / "runs"))
    made = Runs(tmp_path)
    yield made
    made.end_all()


@pytest.fixture
def events_of() -> Callable[..., list[SimpleNamespace]]:
    """Reads the events of one attempt and rank of a run, of one type or all."""
    from nexa.events.reader import EventReader

    def read(run: Run, type: str | None = None, *, attempt: int = 1, rank: int = 0) -> list[SimpleNamespace]:
        records = EventReader(run.path / "events" / f"{attempt}-{rank}.jsonl").poll()
        return [SimpleNamespace(**record) for record in records if type in (None, record["type"])]

    return read
