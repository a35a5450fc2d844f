"""One worker's way from a recipe to a trained model: data, model, arguments, trainer, result."""

from __future__ import annotations

import pkgutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import datasets

from nexa.backend import RunResult, RunState
from nexa.errors import UserError
from nexa_hf.arguments import holds_out, training_arguments
from nexa_hf.callback import TrainingEnded
from nexa_hf.checkpoints import read_cursor, require_same_run
from nexa_hf.meter import Meter
from nexa_hf.methods import find_method
from nexa_hf.methods.base import Job, Method, TrainingData
from nexa_hf.session import Session
from nexa_hf.sharding import let_cpus_shard, require_sharding
from nexa_hf.stopping import Patience
from nexa_hf.trainer import run_trainer
from nexa_torch.distributed.process_group import process_group
from nexa_torch.models import quiet_libraries
from nexa_torch.options import recipe_from_document
from nexa_torch.run import set_threads

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext
    from nexa_torch.distributed.ranks import Ranks


class _Stopped(Exception):  # noqa: N818 - a signal between functions of this module, not an error
    """A stop was requested before training began."""


def run_training(context: RunContext) -> RunResult:
    """Train as the recipe of `context` says; see `nexa.backend.Backend.run`."""
    recipe = recipe_from_document(dict(context.recipe))
    quiet_libraries()
    datasets.disable_progress_bars()
    set_threads(recipe)
    with process_group(
        context.rank,
        context.local_rank,
        context.world_size,
        gpus=recipe.cluster.gpus_per_node,
        timeout=recipe.distributed.timeout_seconds,
    ) as ranks:
        try:
            session, trainer = make_trainer(context, recipe, ranks)
        except _Stopped:
            step = read_cursor(context.resume_from).step if context.resume_from else 0
            return RunResult(state=RunState.STOPPED, step=step)
        if session.step < session.total_steps:
            with suppress(TrainingEnded):
                trainer.train(resume_from_checkpoint=str(context.resume_from) if context.resume_from else None)
        return _result(session)


def make_trainer(context: RunContext, recipe: Recipe, ranks: Ranks) -> tuple[Session, Any]:
    """The run's session and its trainer, ready to train. Raises UserError, DataError and WorkerError."""
    method = find_method(recipe.method)
    cursor = read_cursor(context.resume_from) if context.resume_from else None
    data = _load(context, recipe, method, ranks)
    resume = context.resume_from
    model = method.build(recipe, data, resume)
    if ranks.any(context.stop_requested() is not None):
        raise _Stopped
    job = Job(recipe=recipe, method=method, data=data, model=model)
    stopping = recipe.training.early_stopping
    session = Session(
        context=context,
        ranks=ranks,
        job=job,
        meter=Meter(count=method.count, ranks=ranks),
        patience=Patience(stopping) if stopping else None,
        resume_from=resume,
    )
    trainer = _trainer(job, context)
    session.total_steps = _total_steps(trainer)
    if cursor is not None:
        session.continue_from(cursor)
        require_same_run(session.cursor(), cursor)
    trainer.join(session)
    _announce(session, trainer)
    return session, trainer


def _load(context: RunContext, recipe: Recipe, method: Method, ranks: Ranks) -> TrainingData:
    """The data: made by one process of each node, then opened by all. Raises _Stopped on all ranks alike."""

    def on_progress(phase: str, done: int, total: int | None) -> None:
        if context.stop_requested() is not None:
            raise _Stopped
        if ranks.is_main:
            context.events.write("progress", phase=phase, step=done, total_steps=total)

    data = None
    for turn in (ranks.local_rank == 0, ranks.local_rank != 0):
        stopped = False
        try:
            data = method.load(recipe, on_progress) if turn else data
        except _Stopped:
            stopped = True
        if ranks.gather("data loaded", stopped):
            raise _Stopped
    assert data is not None, "every process takes one of the turns"
    return data


def _trainer(job: Job, context: RunContext) -> Any:
    """The method's trainer over the job. Raises UserError where its arguments are not to its liking."""
    method, data = job.method, job.data
    given = {
        **method.sized(data),
        **training_arguments(job.recipe, method),
        "output_dir": str(context.run_dir / "checkpoints"),
        "eval_on_start": holds_out(job.recipe) and context.resume_from is None,
    }
    shards = job.recipe.distributed.strategy == "fsdp"
    try:
        arguments = pkgutil.resolve_name(method.arguments_class)(**given)
        if shards:
            let_cpus_shard()
        trainer = run_trainer(pkgutil.resolve_name(method.trainer))(
            model=job.model.adapter or job.model.network,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            processing_class=data.tokenizer,
            **method.keywords(job),
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(
            f"{method.arguments_class.rpartition(':')[2]} refuses the run: {str(error).strip().splitlines()[0]}",
            hint="see what the recipe becomes: nexa launch --explain; own arguments are in hf.arguments",
        ) from error
    if shards:
        require_sharding(trainer)
    return trainer


def _total_steps(trainer: Any) -> int:
    """Optimizer steps of the whole run, as the trainer counts them."""
    loader = trainer.get_train_dataloader()
    return int(trainer.set_initial_training_values(trainer.args, loader)[-1])


def _announce(session: Session, trainer: Any) -> None:
    """Write what a person should know before the first step."""
    total, trained = session.job.model.parameter_counts()
    kind = next(each for each in type(trainer).__mro__ if not each.__module__.startswith("nexa_hf"))
    session.write(
        "message",
        level="info",
        text=f"{kind.__module__.partition('.')[0]}'s {kind.__name__}: {total:,} parameters, {trained:,} trained; "
        f"{session.total_steps} steps",
    )
    for note in session.job.data.notes:
        session.write("message", level="info", text=note)
    for warning in session.job.data.warnings:
        session.write("message", level="warning", text=warning)


def _result(session: Session) -> RunResult:
    done = session.step >= session.total_steps
    early = "" if done else session.ended_early
    if early:
        session.write("message", level="info", text=f"training ended at step {session.step}: {early}")
    return RunResult(
        state=RunState.COMPLETED if done or early else RunState.STOPPED,
        step=session.step,
        metrics=session.metrics,
        checkpoint=session.checkpoint,
        reason=early,
    )
