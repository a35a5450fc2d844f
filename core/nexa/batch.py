"""Batch arithmetic: how one optimizer step is split over processes and forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa.errors import Problem, RecipeError

if TYPE_CHECKING:
    from nexa.recipe.sections.training import TrainingSection


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """global_batch_size = microbatch_size × accumulation_steps × world_size, all in rows."""

    microbatch_size: int
    accumulation_steps: int
    global_batch_size: int
    world_size: int

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} rows a step = {self.microbatch_size} rows × "
            f"{self.accumulation_steps} accumulation steps × {self.world_size} processes"
        )


def resolve_batch(training: TrainingSection, world_size: int) -> BatchPlan:
    """Fill in what the recipe leaves open of global batch and accumulation.

    Raises RecipeError with the numbers where the global batch does not divide, or where all three
    are given and contradict one another.
    """
    if world_size < 1:
        raise AssertionError("a run has at least one process")
    micro = training.microbatch_size_per_gpu
    parallel = micro * world_size
    wanted = training.global_batch_size
    accumulation = training.grad_accumulation_steps
    if wanted is None:
        accumulation = accumulation or 1
        wanted = parallel * accumulation
    elif accumulation is None:
        if wanted % parallel:
            raise _refusal(
                f"{wanted} rows do not divide by {micro} rows × {_processes(world_size)} = {parallel}",
                _nearest(wanted, parallel),
            )
        accumulation = wanted // parallel
    elif parallel * accumulation != wanted:
        raise _refusal(
            f"{wanted} rows contradict {micro} rows × {_processes(world_size)} × {accumulation} accumulation steps"
            f" = {parallel * accumulation}",
            "leave grad_accumulation_steps out to have it computed",
        )
    return BatchPlan(
        microbatch_size=micro, accumulation_steps=accumulation, global_batch_size=wanted, world_size=world_size
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _nearest(wanted: int, parallel: int) -> str:
    below = wanted // parallel * parallel
    choices = [str(size) for size in (below, below + parallel) if size]
    return f"use {' or '.join(choices)}, or another microbatch_size_per_gpu"


def _refusal(message: str, hint: str) -> RecipeError:
    return RecipeError([Problem(path="training.global_batch_size", message=message, hint=hint)])
