"""Checkpoints of a run: what goes into one, and whether a run may continue from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexa.errors import UserError
from nexa_torch.checkpoint import Cursor, save_trainer
from nexa_torch.optimizers.weights import evaluation_weights

if TYPE_CHECKING:
    from nexa.worker.context import CheckpointCommitter
    from nexa_torch.engine.engine import TrainingEngine


def commit_checkpoint(engine: TrainingEngine, committer: CheckpointCommitter) -> str | None:
    """Commit a checkpoint of the engine's step on rank 0, the others wait; returns its name there."""
    name = None
    if engine.ranks.is_main:
        cursor = _cursor(engine)
        folder = committer.stage(cursor.step)
        with evaluation_weights(engine.optimizer):
            engine.task.save(engine.model, folder)
            if engine.recipe.checkpointing.save_optimizer:
                save_trainer(
                    folder,
                    cursor,
                    engine.model,
                    engine.optimizer,
                    engine.scheduler,
                    engine.callbacks,
                    engine.precision,
                )
        fingerprint = engine.data_module.fingerprint()
        name = committer.commit(
            cursor.step,
            folder,
            metrics=cursor.metrics,
            inputs=[f"sha256:{fingerprint}"] if fingerprint else [],
            lineage=engine.data_module.lineage(),
        )
    engine.ranks.barrier()
    return name


def require_same_run(engine: TrainingEngine, saved: Cursor) -> None:
    """Refuse to continue with other data or batches. Raises UserError."""
    now = _cursor(engine)
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


def _cursor(engine: TrainingEngine) -> Cursor:
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
    return Cursor(**numbers, metrics=dict(engine.metrics))
