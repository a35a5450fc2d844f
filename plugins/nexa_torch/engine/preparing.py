"""What comes before the first step: data, model and optimizer, new or from a checkpoint.

Data is made ready without a collective: one rank may take minutes longer than another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa_torch.checkpoint import read_cursor, restore_trainer
from nexa_torch.distributed.strategy import choose_strategy
from nexa_torch.engine.precision import Precision
from nexa_torch.engine.saving import require_same_run
from nexa_torch.engine.surroundings import announce, choose_matmul
from nexa_torch.engine.windows import make_source
from nexa_torch.memory import keep_state_on_host
from nexa_torch.optimizers.weights import training_weights

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from nexa_torch.callbacks.base import CallbackContext
    from nexa_torch.engine.engine import TrainingEngine


class Stopped(Exception):  # noqa: N818 - a signal between functions of the engine, not an error
    """A stop was requested before training began."""


def prepare(engine: TrainingEngine, ctx: CallbackContext) -> None:
    """Set up everything that `TrainingEngine.train_step` uses. Raises Stopped.

    Model and optimizer continue from the engine's checkpoint, where it has one.
    """
    recipe, task, ranks, resume = engine.recipe, engine.task, engine.ranks, engine.resume_from
    prepare_data(engine)
    cursor = read_cursor(resume) if resume else None
    if cursor is not None:
        engine.data_module.go_to(cursor.place)
    loader, sampler = engine.data_module.train_dataloader(ranks.rank, ranks.world_size)
    engine.source = make_source(loader, sampler, task, engine.plan, recipe.training)
    task.total_steps = engine.source.total_steps
    engine.strategy = choose_strategy(recipe.distributed, ranks, precision=recipe.training.precision)
    model = engine.strategy.build(task, resume)
    engine.model = engine.strategy.spread(model, task)
    engine.criterion = task.build_criterion().to(ranks.device)
    engine.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine.precision = Precision(recipe.training.precision, ranks.device)
    engine.matmul = choose_matmul(recipe, task.matmul_shapes(model), ranks.device, chosen=cursor and cursor.cpu_matmul)
    if ranks.any(engine.stop_requested()):
        raise Stopped
    if ranks.is_main:
        announce(engine)
    engine.optimizer = task.build_optimizer(model)
    if recipe.optimizer.offload:
        keep_state_on_host(engine.optimizer)
    engine.scheduler = task.build_scheduler(engine.optimizer)
    ctx.total_steps = engine.source.total_steps
    if resume is not None and cursor is not None:
        require_same_run(engine, cursor)
        restore_trainer(
            resume,
            model,
            engine.optimizer,
            engine.scheduler,
            engine.callbacks,
            engine.precision,
            group=ranks.background,
        )
        training_weights(engine.optimizer)
        engine.tokens_seen, ctx.step, ctx.metrics = cursor.tokens_seen, cursor.step, dict(cursor.metrics)
    ctx.epoch = engine.source.epochs_done(ctx.step)
    ctx.lr = current_lr(engine.optimizer)


def current_lr(optimizer: Optimizer) -> float:
    """Learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


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
