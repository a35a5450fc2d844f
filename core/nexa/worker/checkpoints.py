"""Commits checkpoints to the artifact store and finds the one to continue from. Standard library only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.artifacts import ArtifactStore
from nexa.errors import ArtifactError, ArtifactExistsError, WorkerError
from nexa.worker.context import EventSink
from nexa.worker.loading import create
from nexa.worker.retention import Retention


def load_store(document: Mapping[str, Any]) -> ArtifactStore:
    """Open the store that a plan names by factory and URI. Raises NexaError."""
    store: ArtifactStore = create(document["factory"])
    store.open(document["uri"])
    return store


def checkpoint_name(run_id: str, step: int) -> str:
    """Name of the artifact that holds a run's checkpoint of `step`; sorts by step."""
    return f"checkpoints/{run_id}/step-{step:08d}"


class StoreCommitter:
    """Stages checkpoints in the run directory and commits them with everything they came from.

    fields: the manifest fields that are the same for every checkpoint of the attempt.
    retention: which checkpoints of this run are kept when a new one is committed.
    """

    def __init__(
        self,
        store: ArtifactStore,
        *,
        run_id: str,
        run_dir: Path,
        events: EventSink,
        fields: Mapping[str, Any],
        labels: Mapping[str, str],
        retention: Retention | None = None,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._staging = run_dir / "checkpoints"
        self._events = events
        self._fields = fields
        self._labels = labels
        self.retention = retention or Retention()
        self.last: str | None = None
        """Name of the newest checkpoint committed by this attempt, None before the first."""

    def stage(self, step: int) -> Path:
        """Return an empty folder to write the checkpoint of `step` into. Raises WorkerError."""
        folder = self._staging / f"step-{step:08d}"
        try:
            # An attempt that was killed while saving may have left one.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise WorkerError(
                f"a checkpoint can't be staged in {folder}: {error.strerror or error}",
                hint=f"free space or permissions there, then: nexa resume {self._run_id}",
            ) from error
        return folder

    def commit(
        self,
        step: int,
        staged: Path,
        *,
        metrics: Mapping[str, float],
        inputs: Sequence[str] = (),
        lineage: Mapping[str, Any] | None = None,
    ) -> str:
        """Make the staged folder an artifact and return its name; writes a `checkpoint` event.

        lineage: what the backend learned about its inputs, merged into the run's own lineage. A
        checkpoint of this step that an earlier attempt committed stays as it is, since artifacts
        never change. Raises ArtifactError when the files can't be stored.
        """
        name = checkpoint_name(self._run_id, step)
        manifest = {
            **self._fields,
            "step": step,
            "metrics": dict(metrics),
            "lineage": _merge(self._fields["lineage"], lineage or {}),
        }
        try:
            meta = self._store.commit(
                staged, name, kind="checkpoint", manifest=manifest, inputs=inputs, labels=self._labels
            )
        except ArtifactExistsError:
            shutil.rmtree(staged, ignore_errors=True)
            if name != self.last:
                self._events.write("message", level="info", text=f"{name} exists from an earlier attempt; kept")
        else:
            self._events.write("checkpoint", step=step, name=name, hash=meta.hash, bytes=meta.bytes)
        self.last = name
        self._collect()
        return name

    def _collect(self) -> None:
        """Remove checkpoints that are not to be kept; failing to do so never fails a run.

        The store protects pinned ones, and the newest that verifies.
        """
        if self.retention.keep_last is None:
            return
        try:
            names = sorted(artifact.name for artifact in self._store.list(f"checkpoints/{self._run_id}"))
            going = self.retention.superfluous([(name, self._metrics(name)) for name in names])
            if going:
                self._store.collect(going)
        except ArtifactError as error:
            self._events.write("message", level="warning", text=f"older checkpoints were not removed: {error.message}")

    def _metrics(self, name: str) -> Mapping[str, float]:
        """Figures of a checkpoint; none for one that is damaged, which so never counts as the best."""
        try:
            metrics: Mapping[str, float] = self._store.manifest(name).get("metrics") or {}
        except ArtifactError:
            return {}
        return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; `extra` wins."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint to continue from."""

    name: str
    folder: Path
    hash: str


def find_resume_point(store: ArtifactStore, wanted: str, *, run_id: str, warn: Callable[[str], None]) -> ResumePoint:
    """Return the checkpoint `wanted` if it verifies, else the newest before it of the run that does.

    Each damaged one is reported through `warn`. Raises WorkerError when none is whole.
    """
    earlier = [artifact.name for artifact in store.list(f"checkpoints/{run_id}") if artifact.name < wanted]
    candidates = [wanted, *sorted(earlier, reverse=True)]
    for name in candidates:
        try:
            damage = [f"{item.file}: {item.message}" for item in store.verify(name)]
            if not damage:
                return ResumePoint(name, store.fetch(name), str(store.manifest(name)["hash"]))
        except ArtifactError as error:
            damage = [error.message]
        warn(f"checkpoint {name} is damaged and not used: {'; '.join(damage[:3])}")
    raise WorkerError(
        f"run {run_id} can't be resumed: none of its {len(candidates)} checkpoints is whole",
        hint=f"see what is damaged: nexa artifacts verify {wanted}; to start over: nexa artifacts gc {run_id}, "
        f"then nexa resume {run_id}",
    )
