"""Saves checkpoints on the way and keeps the newest and the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nexa.stores import open_store
from nexa.worker.checkpoints import StoreCommitter
from nexa.worker.retention import Retention
from nexa_torch.callbacks.base import Callback, CallbackContext

if TYPE_CHECKING:
    from nexa_torch.engine.engine import TrainingEngine


class CheckpointCallback(Callback):
    """Saves every so many steps, with rotation: the newest `keep_last`, and the best `keep_best` by `monitor`.

    Rotation never removes the best, the newest that verifies, or one that is pinned. Checkpoints are
    artifacts: verified copies with a manifest, in the run's store, or below `folder` for an engine that is
    no part of a run. What it sets comes before the recipe's section `checkpointing`.
    """

    priority: ClassVar[int] = 30

    def __init__(
        self,
        every_steps: int | None = None,
        *,
        keep_last: int | None = None,
        keep_best: int = 1,
        monitor: str = "val_loss",
        mode: str = "auto",
        folder: str | Path | None = None,
        name: str = "run",
    ) -> None:
        """every_steps: besides training.save_every_steps. folder: store for an engine outside of a run.

        name: the checkpoints are checkpoints/NAME/step-… there. Raises ValueError for a number below 1.
        """
        for what, number in (("every_steps", every_steps), ("keep_last", keep_last)):
            if number is not None and number < 1:
                raise ValueError(f"{what} is {number}; it must be at least 1")
        self._every = every_steps
        self._retention = Retention(keep_last=keep_last, keep_best=keep_best, monitor=monitor, mode=mode)
        self._folder = Path(folder) if folder is not None else None
        self._name = name
        self.saved: list[str] = []
        """Names of the checkpoints saved, oldest first, those removed since too; on rank 0."""

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Say which checkpoints are kept, and where they go. Raises NexaError for a folder that can't be used."""
        engine = ctx.engine
        if engine.checkpoints is None and self._folder is not None:
            engine.checkpoints = self._committer(engine, self._folder)
        if engine.checkpoints is not None:
            engine.checkpoints.retention = self._retention

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Ask for a checkpoint when one is due."""
        if self._every is not None and ctx.step % self._every == 0:
            ctx.save()

    def on_save(self, ctx: CallbackContext) -> None:
        """Remember the name."""
        if ctx.checkpoint is not None:
            self.saved.append(ctx.checkpoint)

    def _committer(self, engine: TrainingEngine, folder: Path) -> StoreCommitter:
        recipe = engine.recipe
        return StoreCommitter(
            open_store(str(folder.absolute())),
            run_id=self._name,
            run_dir=folder / ".staging",
            events=engine.events,
            fields={"run_id": self._name, "backend": recipe.backend, "config": recipe.document(), "lineage": {}},
            labels=recipe.artifacts.labels,
        )
