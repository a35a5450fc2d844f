"""Data made ready on every rank, without a collective: one may take minutes longer than another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa_torch.engine.engine import TrainingEngine


class Stopped(Exception):  # noqa: N818 - a signal between functions of the engine, not an error
    """A stop was requested before training began."""


def prepare_data(engine: TrainingEngine) -> None:
    """Let one process of each node prepare what lies on disk, then let every process load it.

    The others wait without a time-out, as long as everyone lives. A stop asked of any rank raises Stopped
    on all of them.
    """
    module, ranks = engine.data_module, engine.ranks

    def on_progress(phase: str, done: int, total: int) -> None:
        if engine.stop_requested():
            raise Stopped
        if ranks.is_main:
            engine.events.write("progress", phase=phase, step=done, total_steps=total)

    module.on_progress = on_progress
    if ranks.local_rank == 0:
        _together(engine, "data prepared", module.prepare_data)
    else:
        _together(engine, "data prepared", lambda: None)
    _together(engine, "data loaded", lambda: module.setup("fit"))
    on_progress("loading", 0, 1)


def _together(engine: TrainingEngine, mark: str, work: Callable[[], None]) -> None:
    """Do this rank's work, then wait for the others'."""
    stopped = False
    try:
        work()
    except Stopped:
        stopped = True
    if engine.ranks.gather(mark, stopped):
        raise Stopped
