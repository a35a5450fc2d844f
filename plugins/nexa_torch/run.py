"""One worker's way from a recipe to a trained model: its task, data module and callbacks, then the engine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from nexa_torch.allocator import FreedMemory
from nexa_torch.callbacks.recipe import recipe_callbacks
from nexa_torch.distributed.process_group import process_group
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.models import quiet_libraries
from nexa_torch.options import recipe_from_document
from nexa_torch.rerun import continue_by_script
from nexa_torch.tasks.registry import SCRIPT, load_data_module, load_task

if TYPE_CHECKING:
    from nexa.backend import RunResult
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext
    from nexa_torch.callbacks.base import Callback
    from nexa_torch.data.module import BaseDataModule
    from nexa_torch.tasks.base import TrainingTask


def run_training(context: RunContext) -> RunResult:
    """Train as the recipe of `context` says; see `nexa.backend.Backend.run`."""
    recipe = recipe_from_document(dict(context.recipe))
    if recipe.method == SCRIPT:
        return continue_by_script(context)
    data_module = load_data_module(recipe)
    return run_task(context, recipe, load_task(recipe, data_module), data_module)


def run_task(
    context: RunContext,
    recipe: Recipe,
    task: TrainingTask,
    data_module: BaseDataModule,
    callbacks: Iterable[Callback] = (),
) -> RunResult:
    """Train a task on its data in the run of `context`, with the recipe's callbacks and others."""
    quiet_libraries()
    cluster = recipe.cluster
    set_threads(recipe)
    # Before anything large is allocated.
    memory = [] if cluster.gpus_per_node else [FreedMemory()]
    with process_group(
        context.rank,
        context.local_rank,
        context.world_size,
        gpus=cluster.gpus_per_node,
        timeout=recipe.distributed.timeout_seconds,
    ) as ranks:
        engine = TrainingEngine(
            recipe,
            task,
            context.rank,
            context.world_size,
            data_module=data_module,
            callbacks=[*recipe_callbacks(recipe, task), *memory, *callbacks],
            context=context,
            ranks=ranks,
        )
        return engine.run()


def set_threads(recipe: Recipe) -> None:
    """Let torch use the recipe's number of CPU threads, by default this process's share of the cores."""
    cluster = recipe.cluster
    processes = cluster.processes_per_node or cluster.gpus_per_node or 1
    torch.set_num_threads(cluster.threads_per_process or _fair_share(processes))


def _fair_share(processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)
