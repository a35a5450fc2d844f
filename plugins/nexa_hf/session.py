"""One worker's run as its trainer sees it: where it stands, what it tells, when it stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.batch import resolve_batch
from nexa.errors import WorkerError
from nexa_hf.checkpoints import Cursor
from nexa_hf.meter import Meter
from nexa_hf.stopping import Patience

if TYPE_CHECKING:
    from nexa.worker.context import RunContext
    from nexa_hf.methods.base import Job
    from nexa_torch.distributed.ranks import Ranks


@dataclass(kw_only=True)
class Session:
    """A run in training.

    metrics: the latest figures. step: finished optimizer steps. checkpoint: name of the newest committed one;
    on rank 0 alone. ended_early: why training is to end before its last step, else empty. stopping: a stop was
    requested of some rank. evaluation_due: a stop met the evaluation of this step, so that the next attempt begins
    with it. resume_from: the checkpoint folder this attempt continues from.
    """

    context: RunContext
    ranks: Ranks
    job: Job
    meter: Meter
    patience: Patience | None
    resume_from: Path | None = None
    total_steps: int = 0
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    ended_early: str = ""
    stopping: bool = False
    evaluation_due: bool = False

    def write(self, type: str, /, **fields: Any) -> None:
        """Write an event; rank 0's alone are the run's."""
        if self.ranks.is_main:
            self.context.events.write(type, **fields)

    def progress(self, phase: str) -> None:
        """Tell what the run is doing."""
        self.write("progress", phase=phase, step=self.step, total_steps=self.total_steps)

    def agree_on_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer."""
        self.stopping = self.stopping or self.ranks.any(self.context.stop_requested() is not None)
        return self.stopping

    def require_finite(self, loss: float) -> None:
        """Raise WorkerError for a loss that is NaN or infinite."""
        if not math.isfinite(loss):
            raise WorkerError(
                f"the loss of step {self.step} is {loss}",
                hint="lower optimizer.lr or raise optimizer.scheduler.warmup_steps",
            )

    def cursor(self) -> Cursor:
        """Where the run stands; called on every rank alike."""
        recipe, data = self.job.recipe, self.job.data
        return Cursor(
            step=self.step,
            total_steps=self.total_steps,
            tokens_seen=self.meter.seen(),
            method=self.job.method.name,
            dataset_hash=data.fingerprint,
            rows=data.rows,
            global_batch_size=resolve_batch(recipe.training, self.ranks.world_size).global_batch_size,
            world_size=self.ranks.world_size,
            seed=recipe.training.seed,
            metrics=dict(self.metrics),
            early_stopping=self.patience.state() if self.patience else {},
            evaluation_due=self.evaluation_due,
        )

    def continue_from(self, cursor: Cursor) -> None:
        """Take over what an earlier attempt had reached."""
        self.step, self.metrics = cursor.step, dict(cursor.metrics)
        self.meter.tokens_seen, self.evaluation_due = cursor.tokens_seen, cursor.evaluation_due
        if self.patience is not None and cursor.early_stopping:
            self.patience.restore(cursor.early_stopping)

    def evaluated(self, figures: Mapping[str, float]) -> None:
        """Take note of an evaluation's figures, and of whether training should end by them."""
        values = {name: value for name, value in figures.items() if not name.endswith(_TIMES)}
        values = {name: float(value) for name, value in values.items() if name.startswith("eval_")}
        values.pop("eval_num_tokens", None)
        if self.job.method.perplexity and "eval_loss" in values:
            loss = values["eval_loss"]
            values["perplexity"] = math.exp(loss) if loss < _OVERFLOW else math.inf
        if not values:
            return
        self.metrics.update(values)
        self.write("eval", step=self.step, values=values)
        if self.patience is not None and (reason := self.patience.observe(self.step, values)):
            self.ended_early = reason

    def logged(self, figures: Mapping[str, float]) -> None:
        """Write a metric record; called on every rank alike."""
        others = {name: value for name, value in figures.items() if name not in _RENAMED and name not in _DROPPED}
        self.require_finite(figures["loss"])
        self.metrics["loss"] = figures["loss"]
        values = {
            "loss": figures["loss"],
            "lr": figures["learning_rate"],
            "grad_norm": float(figures.get("grad_norm", 0.0)),
            **self.meter.record(),
            **{name: float(value) for name, value in others.items()},
        }
        self.write("metrics", step=self.step, values=values)


_OVERFLOW = 700.0
_TIMES = ("_runtime", "_per_second")
_RENAMED = ("loss", "learning_rate", "grad_norm")
# The trainers' own counts, which begin anew in every attempt; `tokens` goes on.
_DROPPED = ("epoch", "num_tokens", "num_input_tokens_seen")
