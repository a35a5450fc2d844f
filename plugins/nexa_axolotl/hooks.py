"""Nexa's part inside Axolotl: a plugin of Axolotl's own interface whose callback reports, stops and saves.

Runs in Axolotl's interpreter; of Nexa it imports the standard-library part alone.
"""

from __future__ import annotations

import math
import resource
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from nexa_axolotl import state as state_files
from nexa_axolotl.seeding import PLUGIN as SEEDING

if TYPE_CHECKING:
    from nexa.worker.context import RunContext

PLUGIN = "nexa_axolotl.hooks.NexaPlugin"
__all__ = ["PLUGIN", "SEEDING", "NexaPlugin", "Session", "TrainingStopped", "open_session"]


class TrainingStopped(BaseException):
    """Training ended at a step boundary as asked, with a checkpoint; nothing of Axolotl's end of training is needed.

    No Exception, so that no handler on the way takes it for an error.
    """


@dataclass(kw_only=True)
class Session:
    """What the callback and the worker share: the run, and how far it came.

    lineage: what the preparation learned of the data. tokens, seconds: since the last record. checkpoint: name of
    the newest committed.
    """

    context: RunContext
    save_optimizer: bool
    lineage: Mapping[str, Any]
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    stop_reason: str | None = None
    checkpoint: str | None = None


_session: Session | None = None


def open_session(session: Session) -> None:
    """Make `session` the one that Axolotl's plugin works for: Axolotl creates plugins by name, without arguments."""
    global _session
    _session = session


class NexaPlugin(BasePlugin):  # type: ignore[misc]
    """Adds Nexa's callback to the trainer that Axolotl builds."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Return the callback, with the trainer that it watches."""
        if _session is None:
            raise AssertionError("the plugin works in a worker of Nexa alone")
        return [NexaCallback(_session, trainer, interrupt=signal.getsignal(signal.SIGINT))]


class NexaCallback(TrainerCallback):  # type: ignore[misc]
    """Reports every log record as events, looks for stop requests at every step, commits what Axolotl saves."""

    def __init__(self, session: Session, trainer: Any, *, interrupt: Any) -> None:
        """interrupt: the worker's own handler of Ctrl-C, which Axolotl replaces by one that exits."""
        self._session = session
        self._trainer = trainer
        self._interrupt = interrupt
        self._since = time.perf_counter()
        self._steps = 0
        self._last_tokens = 0

    @property
    def _is_main(self) -> bool:
        return self._session.context.rank == 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take Ctrl-C back, and tell how long the run is."""
        if self._interrupt is not None:
            signal.signal(signal.SIGINT, self._interrupt)
        self._session.step = state.global_step
        self._since = time.perf_counter()
        self._last_tokens = self._tokens(state)
        self._progress(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        """Count the step, and stop behind it where that was asked for."""
        self._session.step = state.global_step
        self._steps += 1
        reason = self._agreed(self._session.context.stop_requested())
        if reason is not None:
            self._session.stop_reason = reason
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Write one record of training, or one of an evaluation."""
        figures = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "eval_loss" in figures:
            self._evaluated(state, figures)
        elif "loss" in figures:
            self._trained(state, figures)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Commit the checkpoint that Axolotl wrote a moment ago; its own copy goes."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._barrier()
        if self._is_main:
            self._commit(folder, state)
        self._barrier()
        # Saving is no part of the next steps' time.
        self._since = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Leave at once where the run was stopped: its checkpoint is committed."""
        if self._session.stop_reason is not None and state.global_step < state.max_steps:
            raise TrainingStopped(self._session.stop_reason)

    def _trained(self, state: Any, figures: Mapping[str, float]) -> None:
        now = time.perf_counter()
        seconds, tokens = now - self._since, self._tokens(state)
        values = {
            "loss": figures["loss"],
            "lr": figures.get("learning_rate", math.nan),
            "grad_norm": figures.get("grad_norm", math.nan),
            "tokens": tokens,
            "tokens_per_second": (tokens - self._last_tokens) / seconds,
            "step_seconds": seconds / max(1, self._steps),
            "memory_bytes": _peak_memory(),
            # Of preferences: rewards, margins and accuracies.
            **{name: value for name, value in figures.items() if name.startswith(("rewards/", "logps/"))},
        }
        self._since, self._steps, self._last_tokens = now, 0, tokens
        self._session.metrics["loss"] = values["loss"]
        self._session.context.events.write("metrics", step=state.global_step, values=values)
        self._progress(state)

    def _evaluated(self, state: Any, figures: Mapping[str, float]) -> None:
        loss = figures["eval_loss"]
        perplexity = math.exp(loss) if loss < math.log(sys.float_info.max) else math.inf
        values = {"eval_loss": loss, "perplexity": perplexity}
        self._session.metrics.update(values)
        self._session.context.events.write("eval", step=state.global_step, values=values)
        # An evaluation's time is not that of the steps around it.
        self._since = time.perf_counter()

    def _tokens(self, state: Any) -> int:
        """Tokens given to the model so far, as Axolotl counts them: padding included."""
        total = (getattr(state, "tokens", None) or {}).get("total", 0)
        return int(total)

    def _progress(self, state: Any) -> None:
        self._session.context.events.write(
            "progress", phase="training", step=state.global_step, total_steps=state.max_steps
        )

    def _commit(self, folder: Path, state: Any) -> None:
        session, step = self._session, state.global_step
        staged = session.context.checkpoints.stage(step)
        if session.save_optimizer:
            state_files.store(folder, staged)
        else:
            state_files.drop(folder)
        for path in folder.iterdir():
            shutil.move(str(path), staged / path.name)
        session.checkpoint = session.context.checkpoints.commit(
            step, staged, metrics=session.metrics, lineage=session.lineage
        )
        shutil.rmtree(folder, ignore_errors=True)

    def _agreed(self, reason: str | None) -> str | None:
        """Rank 0's reason on every rank, since all must stop behind the same step."""
        if self._session.context.world_size == 1:
            return reason
        import torch.distributed as dist

        box = [reason]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _barrier(self) -> None:
        if self._session.context.world_size > 1:
            import torch.distributed as dist

            dist.barrier()


def _peak_memory() -> int:
    """Most memory used so far in bytes: allocated on a GPU, else resident in this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
