"""Checkpoints of a run: what goes into one, when it is committed, and whether a run may continue from one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from nexa.errors import UserError, WorkerError
from nexa_torch.checkpoint import FOLDER, Cursor, TrainerSnapshot, take_snapshot, write_trainer
from nexa_torch.optimizers.weights import HasEvaluationWeights, evaluation_weights

if TYPE_CHECKING:
    from nexa.worker.context import CheckpointCommitter
    from nexa_torch.engine.engine import TrainingEngine


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One step as it will be saved. weights: on rank 0 only. trainer: None where it is not to be saved."""

    cursor: Cursor
    weights: Mapping[str, Tensor]
    trainer: TrainerSnapshot | None
    inputs: Sequence[str]
    lineage: Mapping[str, Any]

    def writes(self) -> list[int]:
        """How often torch has written into each tensor of weights and optimizer."""
        tensors = [*self.weights.values(), *(self.trainer.tensors.values() if self.trainer else ())]
        return [tensor._version for tensor in tensors]


class Saver:
    """Commits checkpoints, while training waits or, `in_background`, while it goes on.

    In the background at most one save is under way: the next one waits for it. Weights and optimizer state on a
    CPU are copied there too, beside the next step's forward and backward pass, which only read them; before
    they are updated, `wait_for_copy` must be called. All ranks call the same methods at the same step
    boundaries; a save that fails on one rank fails on all.
    """

    def __init__(self, engine: TrainingEngine, committer: CheckpointCommitter, *, in_background: bool) -> None:
        self._engine = engine
        self._committer = committer
        self._in_background = in_background
        self._stager: DefaultStager | None = None
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._name: str | None = None
        self._error: BaseException | None = None

    @property
    def has_news(self) -> bool:
        """Whether a save in the background has ended on this rank, well or not."""
        return self._thread is not None and not self._thread.is_alive()

    def save(self) -> bool:
        """Save the engine's step; in the background, first wait for the save before it.

        Returns whether one was completed: see `name`. Raises WorkerError or ArtifactError on every rank
        when a save failed on one.
        """
        completed = self.finish()
        with evaluation_weights(self._engine.optimizer):
            snapshot = self._take()
            if not self._in_background:
                self._work(snapshot)
            elif not self._copies_beside_training():
                snapshot = self._staged(snapshot)
        if not self._in_background:
            self._agree()
            return True
        work: Callable[[], None] = partial(self._work, snapshot)
        if self._copies_beside_training():
            self._copied.clear()
            work = partial(self._copy_and_work, snapshot, snapshot.writes())
        self._thread = threading.Thread(target=work, name="save-checkpoint", daemon=True)
        self._thread.start()
        return completed

    def wait_for_copy(self) -> None:
        """Return once the weights and the optimizer's state may be changed."""
        self._copied.wait()

    def finish(self) -> bool:
        """Wait for the save in the background; returns whether there was one. Raises as `save` does."""
        if self._thread is None:
            return False
        self.close()
        self._agree()
        return True

    def close(self) -> None:
        """Wait for the save in the background, however it ends."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def name(self) -> str | None:
        """Name of the newest checkpoint that is committed; on rank 0 alone."""
        return self._name

    def _copies_beside_training(self) -> bool:
        """Whether a copy may be taken during the next step: what is saved is what lies in this process's memory."""
        engine = self._engine
        return engine.ranks.device.type == "cpu" and not isinstance(engine.optimizer, HasEvaluationWeights)

    def _take(self) -> Snapshot:
        """The engine's step; its weights and optimizer state are the tensors in use, which updates change."""
        engine = self._engine
        weights = engine.strategy.full_state(engine.model, trained_only=engine.task.saves_trained_only)
        cursor = make_cursor(engine)
        trainer = None
        if engine.recipe.checkpointing.save_optimizer:
            trainer = take_snapshot(
                cursor, engine.model, engine.optimizer, engine.scheduler, engine.callbacks, engine.precision
            )
        if self._in_background:
            # Unlike parameters, buffers may change in a forward pass.
            buffers = {name for name, _ in engine.model.named_buffers(remove_duplicate=False)}
            weights = {name: value.clone() if name in buffers else value for name, value in weights.items()}
        return Snapshot(
            cursor=cursor,
            weights=weights,
            trainer=trainer,
            inputs=engine.data_module.inputs(),
            lineage=engine.data_module.lineage(),
        )

    def _staged(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with its tensors copied to CPU memory that is taken once and used again."""
        if self._stager is None:
            pinned = self._engine.ranks.device.type == "cuda"
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=pinned,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=pinned,
                )
            )
        trainer = snapshot.trainer
        state = {"weights": dict(snapshot.weights), "optimizer": {}, "callbacks": {}}
        if trainer is not None:
            state |= {"optimizer": dict(trainer.tensors), "callbacks": dict(trainer.callback_tensors)}
        staged = self._stager.stage(state)
        assert isinstance(staged, dict), "staging is not asynchronous"
        if trainer is not None:
            trainer = replace(trainer, tensors=staged["optimizer"], callback_tensors=staged["callbacks"])
        return replace(snapshot, weights=staged["weights"], trainer=trainer)

    def _copy_and_work(self, snapshot: Snapshot, writes: list[int]) -> None:
        """Copy the snapshot, let training go on to its update, then write and commit the copy.

        writes: `snapshot.writes()` when it was taken.
        """
        try:
            staged = self._staged(snapshot)
            changed = snapshot.writes() != writes
        except BaseException as error:  # raised where all ranks agree on it
            self._error = error
            return
        finally:
            self._copied.set()
        if changed:
            self._error = WorkerError(
                "weights or optimizer state were changed outside the optimizer's step while a copy of them was saved",
                hint="a callback or task that writes into them needs checkpointing.async_save: false",
            )
            return
        self._work(staged)

    def _work(self, snapshot: Snapshot) -> None:
        """Write and commit on this rank's part; keeps what goes wrong for `_agree`."""
        try:
            self._name = self._write(snapshot)
        except BaseException as error:  # raised where all ranks agree on it
            self._error = error

    def _write(self, snapshot: Snapshot) -> str | None:
        ranks, cursor = self._engine.ranks, snapshot.cursor
        folder = self._stage(cursor.step)
        if snapshot.trainer is not None:
            write_trainer(folder, snapshot.trainer, main=ranks.is_main, group=ranks.background)
        if not ranks.is_main:
            return None
        self._engine.task.save(self._engine.model, folder, snapshot.weights)
        return self._committer.commit(
            cursor.step,
            folder,
            metrics=cursor.metrics,
            inputs=snapshot.inputs,
            lineage=snapshot.lineage,
        )

    def _stage(self, step: int) -> Path:
        """The folder to write into, made by rank 0 and known to all. Raises WorkerError on all alike."""

        def make() -> str:
            folder = self._committer.stage(step)
            try:
                (folder / FOLDER / "optimizer").mkdir(parents=True)
            except OSError as error:
                raise WorkerError(f"{folder} can't be written: {error}") from error
            return str(folder)

        return Path(self._engine.ranks.from_main(make))

    def _agree(self) -> None:
        """Raise on every rank where one of them failed."""
        error, self._error = self._error, None
        if error is not None and not isinstance(error, Exception):
            raise error
        self._engine.ranks.raise_together(error, work="save a checkpoint")


def require_same_run(engine: TrainingEngine, saved: Cursor) -> None:
    """Refuse to continue with other data or batches. Raises UserError."""
    now = make_cursor(engine)
    changed = [
        f"{key} was {getattr(saved, key)} and is {getattr(now, key)}"
        for key in ("dataset_hash", "rows", "global_batch_size", "seed", "total_steps")
        if getattr(saved, key) != getattr(now, key)
    ]
    if changed:
        raise UserError(
            f"the run can't continue exactly: {'; '.join(changed)}",
            hint="restore the data and recipe of the run, or start a new run with its checkpoint as model.name",
        )


def make_cursor(engine: TrainingEngine) -> Cursor:
    """Where the engine stands."""
    rows_done = engine.step * engine.plan.global_batch_size
    numbers: dict[str, Any] = {
        "step": engine.step,
        "tokens_seen": engine.units_seen,
        "total_steps": engine.source.total_steps,
        "dataset_hash": engine.data_module.fingerprint(),
        "rows": engine.source.n_rows,
        "global_batch_size": engine.plan.global_batch_size,
        "seed": engine.recipe.training.seed,
        "cpu_matmul": engine.matmul.library,
    }
    place = engine.data_module.place(rows_done - 1) if rows_done else {}
    return Cursor(**numbers, metrics=dict(engine.metrics), place=place)
