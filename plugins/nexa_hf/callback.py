"""Ties a trainer of transformers to a run: its events, stop requests, evaluations and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from nexa_hf.checkpoints import read_progress

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from nexa_hf.session import Session
    from nexa_hf.trainer import RunTrainer


class EvaluationStopped(Exception):  # noqa: N818 - a signal between callback and trainer, not an error
    """A stop was requested during an evaluation."""


class TrainingEnded(Exception):  # noqa: N818 - a signal between callback and `run`, not an error
    """The evaluation that an attempt began with ends training."""


class RunCallback(TrainerCallback):
    """Follows the recipe where the trainer's own arguments don't reach, and writes the run's events."""

    def __init__(self, session: Session, trainer: RunTrainer) -> None:
        self._session = session
        self._trainer = trainer
        self._epochs = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Continue the counts of an earlier attempt, and show what the model writes before its first step."""
        session = self._session
        session.progress("training")
        if session.resume_from is not None:
            ranks = session.ranks
            self._trainer.restore_progress(read_progress(session.resume_from, ranks.rank, ranks.world_size))
            self._epochs = int(state.epoch or 0)
            if session.evaluation_due:
                self._trainer._evaluate(None, None)
                if session.ended_early:
                    raise TrainingEnded
        elif not self._evaluates:
            self._sample()
        session.meter.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide what follows the step: the last one and a stop request save, and both end training."""
        session, training = self._session, self._session.job.recipe.training
        session.step, session.evaluation_due = state.global_step, False
        session.meter.end_step()
        last = state.global_step >= session.total_steps
        stop = session.agree_on_stop()
        epochs = int((state.epoch or 0.0) + 1e-9)
        crossed, self._epochs = epochs > self._epochs, epochs
        by_epochs = crossed and training.eval_every_epochs is not None and epochs % training.eval_every_epochs == 0
        due = last or by_epochs or _due(state.global_step, training.eval_every_steps)
        control.should_log = control.should_log or last
        control.should_evaluate = due and self._evaluates
        control.should_save = last or stop or _due(state.global_step, training.save_every_steps)
        control.should_training_stop = control.should_training_stop or last or stop
        if due and not self._evaluates and not stop:
            self._sample()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the figures of the steps since the last record."""
        # Events are the record; transformers would keep, and save, another one that grows with every step.
        state.log_history.clear()
        if logs and "loss" in logs:
            self._session.logged(logs)
            self._session.progress("training")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End an evaluation that a stop request meets. Raises EvaluationStopped on all ranks alike."""
        if self._session.agree_on_stop():
            raise EvaluationStopped

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the figures, and end training by them where the recipe says so."""
        session = self._session
        session.evaluation_due = False
        session.evaluated(metrics or {})
        if session.ended_early:
            control.should_save = control.should_training_stop = True
        self._sample()

    @property
    def _evaluates(self) -> bool:
        return self._trainer.eval_dataset is not None

    def _sample(self) -> None:
        from nexa_hf.samples import write_samples

        write_samples(self._session, self._trainer)
        self._session.meter.start()


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
