"""A trainer's checkpoint: the model as transformers or PEFT reads it, its trainer state, committed as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from nexa.errors import WorkerError
from nexa_hf.checkpoints import FOLDER, Cursor, optimizer_state, write_optimizer, write_random_state, write_state
from nexa_torch.checkpoint import schedule_state

if TYPE_CHECKING:
    from nexa_hf.session import Session
    from nexa_hf.trainer import RunTrainer

TRAINER_STATE = "trainer_state.json"


def save_checkpoint(trainer: RunTrainer, session: Session) -> None:
    """Write and commit the step a run is at; called on every rank alike.

    Raises WorkerError on every rank where one of them fails, and ArtifactError where the files can't be stored.
    """
    ranks = session.ranks
    session.progress("saving")
    cursor = session.cursor()
    folder = Path(ranks.from_main(lambda: _stage(session, cursor.step)))
    error: Exception | None = None
    try:
        _write(trainer, session, cursor, folder)
    except (OSError, SafetensorError) as caught:
        error = WorkerError(
            f"the checkpoint of step {cursor.step} can't be written to {folder}: {caught}",
            hint=f"free space there, then: nexa resume {session.context.run_id}",
        )
    except Exception as caught:  # raised where all ranks agree on it
        error = caught
    ranks.raise_together(error, work="save a checkpoint")
    session.checkpoint = ranks.from_main(lambda: _commit(session, cursor, folder))
    session.progress("training")


def _stage(session: Session, step: int) -> str:
    folder = session.context.checkpoints.stage(step)
    try:
        (folder / FOLDER).mkdir(parents=True)
    except OSError as error:
        raise WorkerError(f"{folder} can't be written: {error}") from error
    return str(folder)


def _commit(session: Session, cursor: Cursor, folder: Path) -> str:
    data = session.job.data
    return session.context.checkpoints.commit(
        cursor.step,
        folder,
        metrics=cursor.metrics,
        inputs=data.inputs or [f"sha256:{data.fingerprint}"],
        lineage=data.lineage,
    )


def _write(trainer: RunTrainer, session: Session, cursor: Cursor, folder: Path) -> None:
    job, main = session.job, session.ranks.is_main
    weights = _weights(trainer, session)
    if main:
        job.method.save(job.model, job.data.tokenizer, folder, weights)
    progress = trainer.progress()
    if not job.recipe.checkpointing.save_optimizer:
        if main:
            (folder / FOLDER).rmdir()
        return
    write_random_state(folder, session.ranks.rank, progress)
    if trainer.is_deepspeed_enabled:
        # ZeRO's state is its engine's own: each process writes its part, in DeepSpeed's format.
        trainer.model_wrapped.save_checkpoint(str(folder))
        described: dict[str, Any] = {}
    else:
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        tensors, described = optimizer_state(job.model.network, optimizer)
        if main:
            write_optimizer(folder, tensors)
    if not main:
        return
    scaler = getattr(trainer.accelerator, "scaler", None)
    schedule = {} if trainer.is_deepspeed_enabled else schedule_state(trainer.lr_scheduler)
    write_state(
        folder,
        cursor,
        schedule=schedule,
        scaler=scaler.state_dict() if scaler is not None else {},
        optimizer=described,
    )
    trainer.state.save_to_json(str(folder / TRAINER_STATE))


def _weights(trainer: RunTrainer, session: Session) -> dict[str, Any]:
    """Weights of the network by name, whole, on rank 0; the trained ones where there is an adapter."""
    model = session.job.model
    if trainer.is_deepspeed_enabled:
        state = dict(trainer.accelerator.get_state_dict(trainer.model_wrapped))
    else:
        adapted = model.adapter is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapted)
        state = get_model_state_dict(model.network, options=options)
    # Tied weights that were put together from shards are two tensors; transformers stores one that is shared.
    tied = model.network.all_tied_weights_keys
    return {name: value for name, value in state.items() if tied.get(name) not in state}
