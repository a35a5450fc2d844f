"""One worker's part of an attempt: everything around `Backend.run`. Standard library only."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import nexa
from nexa.backend import RunResult
from nexa.errors import NexaError, WorkerError
from nexa.events.writer import EventWriter
from nexa.files import read_json, write_json, write_json_once
from nexa.text import redactor
from nexa.worker.checkpoints import ResumePoint, StoreCommitter, find_resume_point, load_store
from nexa.worker.context import RunContext
from nexa.worker.environment import environment_snapshot
from nexa.worker.identity import ProcessIdentity
from nexa.worker.loading import create
from nexa.worker.meters import Meters, own_gpu
from nexa.worker.observers import Observers
from nexa.worker.place import PLAN_SCHEMA, WorkerPlace, read_plan
from nexa.worker.retention import Retention
from nexa.worker.stop import StopRequests

HEARTBEAT_SECONDS = 10.0

Train = Callable[[RunContext], RunResult]
"""What a worker does with its run: `Backend.run`, or a function in its place."""

_log = logging.getLogger("nexa.worker")


class Heartbeat(threading.Thread):
    """Writes a heartbeat event every few seconds, whatever the training loop is doing."""

    def __init__(self, events: EventWriter, on_failure: Callable[[Exception], None], *, seconds: float) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._events = events
        self._on_failure = on_failure
        self._seconds = seconds
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until `finish`."""
        while not self._ended.wait(self._seconds):
            try:
                self._events.write("heartbeat")
            except NexaError as error:
                self._on_failure(error)
                return

    def finish(self) -> None:
        """Stop beating; returns when no write is under way."""
        self._ended.set()
        self.join()


class WorkerSession:
    """Runs the backend of one worker with events, stop requests, checkpoints and observers around it.

    train: what is run in place of the plan's backend, where the caller brings its own model and data.
    on_interrupt: called at the first Ctrl-C; the second then raises KeyboardInterrupt.
    """

    def __init__(
        self, place: WorkerPlace, *, train: Train | None = None, on_interrupt: Callable[[], None] | None = None
    ) -> None:
        self._place = place
        self._run_backend = train
        self._plan = read_plan(place.run_dir, place.attempt)
        self._run_id = str(self._plan["run_id"])
        self._is_main = place.rank == 0
        self._stop = StopRequests(place.attempt_dir, on_interrupt=on_interrupt)
        self._observers: Observers | None = None
        self._events = EventWriter(place.events_path, listener=self._forward, clean=redactor())

    def run(self) -> RunResult:
        """Train and record how it went. Raises what the backend raises."""
        place = self._place
        if threading.current_thread() is threading.main_thread():
            self._stop.install()
        self._record_process()
        if self._is_main:
            # Before the first event, which observers shall see too.
            self._observers = self._make_observers()
        self._events.write(
            "start",
            attempt=place.attempt,
            rank=place.rank,
            world_size=place.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
            python=platform.python_version(),
            nexa=nexa.__version__,
            plan_schema=PLAN_SCHEMA,
            environment=dict(self._plan.get("launch", {}).get("environment") or {}),
        )
        heartbeat = Heartbeat(self._events, self._stop.fail, seconds=HEARTBEAT_SECONDS)
        heartbeat.start()
        meters = Meters(self._events, self._stop.fail, gpu=own_gpu(place.local_rank, os.environ))
        meters.start()
        try:
            if self._observers is not None:
                self._observers.start()
            result = self._train()
            heartbeat.finish()
            meters.finish()
            if self._is_main:
                self._record_result(result)
            self._events.write("end", state=str(result.state), step=result.step, message=self._stop_reason())
            return result
        except BaseException as error:
            try:
                heartbeat.finish()
                meters.finish()
            finally:
                # Also where a second error comes on the way, as torch raises one when a process of a loader dies.
                self._record_failure(error)
            raise
        finally:
            if self._observers is not None:
                self._observers.finish()
            self._events.close()

    def _train(self) -> RunResult:
        place, plan = self._place, self._plan
        if self._is_main:
            self._events.write("progress", phase="loading", step=None, total_steps=None)
        environment = environment_snapshot(place=plan["launch"].get("environment")) if self._is_main else {}
        if self._is_main:
            write_json(place.attempt_dir / "environment.json", environment)
        store = load_store(plan["store"])
        resume = self._resume_point(store)
        lineage = {**plan.get("lineage", {}), "environment": environment}
        if resume is not None:
            lineage["resumed_from"] = {"name": resume.name, "hash": resume.hash}
        context = RunContext(
            run_id=self._run_id,
            run_dir=place.run_dir,
            attempt=place.attempt,
            recipe=plan["recipe"],
            rank=place.rank,
            local_rank=place.local_rank,
            world_size=place.world_size,
            events=self._events,
            checkpoints=self._committer(store, lineage),
            stop_requested=self._stop,
            resume_from=resume.folder if resume else None,
            lineage=lineage,
        )
        train: Train = self._run_backend or create(plan["launch"]["factory"]).run
        return train(context)

    def _committer(self, store: Any, lineage: Mapping[str, Any]) -> StoreCommitter:
        recipe = self._plan["recipe"]
        return StoreCommitter(
            store,
            run_id=self._run_id,
            run_dir=self._place.run_dir,
            events=self._events,
            fields={
                "run_id": self._run_id,
                "attempt": self._place.attempt,
                "backend": recipe.get("backend"),
                "config": recipe,
                "lineage": lineage,
            },
            labels=(recipe.get("artifacts") or {}).get("labels") or {},
            retention=Retention.of(recipe.get("checkpointing") or {}),
        )

    def _resume_point(self, store: Any) -> ResumePoint | None:
        """The checkpoint to continue from, the same on all ranks: rank 0 verifies, the others follow."""
        wanted = (read_json(self._place.attempt_dir / "attempt.json") or {}).get("resume_from")
        if wanted is None:
            return None
        decision = self._place.attempt_dir / "resume.json"
        if self._is_main:
            point = find_resume_point(store, wanted, run_id=self._run_id, warn=self._warn)
            write_json(decision, {"name": point.name, "hash": point.hash})
            self._events.write("message", level="info", text=f"continuing from {point.name}")
            return point
        while (found := read_json(decision)) is None:
            reason = self._stop()
            if reason is not None:
                raise WorkerError(f"stopped before the checkpoint to resume from was verified: {reason}")
            time.sleep(0.1)
        return ResumePoint(found["name"], store.fetch(found["name"]), found["hash"])

    def _make_observers(self) -> Observers:
        return Observers(
            self._plan.get("observers", []),
            run_id=self._run_id,
            run_dir=self._place.run_dir,
            recipe=self._plan["recipe"],
            warn=self._warn,
        )

    def _forward(self, record: Mapping[str, Any]) -> None:
        if self._observers is not None:
            self._observers.put(record)

    def _warn(self, text: str) -> None:
        _log.warning(text)
        try:
            self._events.write("message", level="warning", text=text)
        except WorkerError as error:
            self._stop.fail(error)

    def _record_process(self) -> None:
        folder = self._place.attempt_dir / "workers"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{self._place.rank}.json", ProcessIdentity.current().document())

    def _stop_reason(self) -> str:
        try:
            return self._stop() or ""
        except NexaError:
            return ""

    def _record_result(self, result: RunResult) -> None:
        document = {**asdict(result), "reason": self._stop_reason() if result.state == "stopped" else result.reason}
        document["metrics"] = {
            name: value if value is not None and abs(value) < float("inf") else None
            for name, value in result.metrics.items()
        }
        write_json_once(self._place.attempt_dir / "result.json", document)

    def _record_failure(self, error: BaseException) -> None:
        """Write the last event; a disk that refuses it already has an error under way."""
        try:
            self._events.write("end", state="failed", step=None, message=f"{type(error).__name__}: {error}")
        except WorkerError as write_error:
            _log.error(write_error.message)
