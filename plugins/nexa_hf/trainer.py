"""A trainer of transformers or TRL whose checkpoints, resumption and evaluations belong to a run.

`run_trainer` mixes `RunTrainer` into a trainer class. It overrides where state is written and read, and nothing of
what is computed: losses, gradients, order of the data and schedule are the trainer's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback

from nexa_hf.callback import EvaluationStopped, RunCallback
from nexa_hf.checkpoints import read_state, restore_optimizer, restore_random_state
from nexa_hf.figures import Figures
from nexa_hf.methods.base import COUNT
from nexa_hf.saving import save_checkpoint
from nexa_torch.checkpoint import restore_schedule

if TYPE_CHECKING:
    from nexa_hf.session import Session


class RunTrainer:
    """Stands before a trainer class in the order of resolution; see `run_trainer`."""

    session: Session
    args: Any
    state: Any
    control: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    eval_dataset: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    model_wrapped: Any
    _figures: Figures
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int

    def join(self, session: Session) -> None:
        """Make this trainer the one of a run; to be called once, before `train`."""
        self.session = session
        self._figures = Figures()
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]
        self.add_callback(RunCallback(session, self))

    def add_callback(self, callback: TrainerCallback) -> None:
        """Add a callback, as the trainer does."""
        super().add_callback(callback)  # type: ignore[misc]

    @property
    def is_sharded(self) -> bool:
        """Whether no process has the whole model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def restore_progress(self, progress: dict[str, float]) -> None:
        """Continue the sum of losses since the last record."""
        self._tr_loss += progress["loss_sum"]
        self._globalstep_last_logged = int(progress["logged_step"])
        self._figures.restore(progress)

    def progress(self) -> dict[str, float]:
        """What this process has summed since the last record. Raises WorkerError where it is not a number."""
        loss_sum = float(self._tr_loss)
        self.session.require_finite(loss_sum)
        return {
            "loss_sum": loss_sum,
            "logged_step": float(self._globalstep_last_logged),
            **self._figures.progress(),
        }

    def add_figures(self, sums: Mapping[str, torch.Tensor], count: int) -> None:
        """Sum up figures beside the loss over `count` tokens; the next record tells their means over all processes."""
        self._figures.add(sums, count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a record, as the trainer does, with the means of `add_figures` in those of training steps."""
        if "loss" in logs:
            logs.update(self._figures.means())
        super().log(logs, start_time)  # type: ignore[misc]

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The microbatches of a step, counted."""
        found: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self.session.meter.add(found[0])
        return found

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, dict):
            inputs.pop(COUNT, None)
        return super()._prepare_inputs(inputs)  # type: ignore[misc]

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.session.progress("evaluating")
        try:
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        except EvaluationStopped:
            metrics = {}
            self.session.evaluation_due = True
            self.control.should_save = self.control.should_training_stop = True
        self.session.progress("training")
        self.session.meter.start()
        return metrics

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        # Which checkpoint is the best is told by its manifest's figures.
        return False

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save_checkpoint(self, self.session)
        self.session.meter.start()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The model was built with the checkpoint's weights, before it was sharded or moved."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        folder = Path(checkpoint)
        network = self.session.job.model.network
        restore_optimizer(folder, network, getattr(self.optimizer, "optimizer", self.optimizer))
        restore_schedule(self.lr_scheduler, read_state(folder)["schedule"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None:
            scaler.load_state_dict(read_state(Path(checkpoint))["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_random_state(Path(checkpoint), self.session.ranks.rank, self.session.cursor())

    def _send_telemetry(self) -> None:
        """Nothing is reported to anyone."""


def run_trainer(trainer: type) -> type:
    """The trainer class with `RunTrainer` before it."""
    return type(f"Run{trainer.__name__}", (RunTrainer, trainer), {})
