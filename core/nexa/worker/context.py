"""What a backend's `run` receives: the run's identity, its events, stop requests and checkpoints.

Standard library only, and free of the rest of Nexa but `nexa.events`, `nexa.errors` and the artifact
contract, so that it works in any environment a backend lives in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nexa.worker.retention import Retention


class EventSink(Protocol):
    """Takes one event; `nexa.events.writer.EventWriter` is the real one."""

    def write(self, type: str, /, **fields: Any) -> None:
        """Append one event record, visible to readers when this returns."""


class CheckpointCommitter(Protocol):
    """Commits staged checkpoints; the worker protocol provides it.

    retention: which checkpoints are kept when a new one is committed; may be changed.
    """

    retention: Retention

    def stage(self, step: int) -> Path:
        """Return an empty folder to write the checkpoint of `step` into."""

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

        lineage: what the backend learned about its inputs, merged into the run's own lineage.
        """


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One worker process's view of its run.

    recipe: the resolved recipe as plain JSON values (`Recipe.document()`).
    rank, local_rank, world_size: of this process, 0 ≤ rank < world_size.
    resume_from: folder of a verified checkpoint to continue from, None on a fresh start.
    stop_requested: returns why the run should stop at the next step boundary, or None.
    """

    run_id: str
    run_dir: Path
    attempt: int
    recipe: Mapping[str, Any]
    rank: int
    local_rank: int
    world_size: int
    events: EventSink
    checkpoints: CheckpointCommitter
    stop_requested: Callable[[], str | None]
    resume_from: Path | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
