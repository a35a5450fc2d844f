"""`verify_resume`: train a recipe twice, once cut and resumed, and say whether a single bit differs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError, WorkerError
from nexa.files import write_json
from nexa.runs.state import State, run_status
from nexa.verification.compare import Comparison, compare_checkpoints, compare_figures, read_figures
from nexa.verification.cuts import Cut, choose_cuts, make_cut, moments

if TYPE_CHECKING:
    from nexa.plan import Plan
    from nexa.recipe.schema import Recipe
    from nexa.runs.store import Run

CERTIFICATE = "resume-certificate.json"
_SCHEMA = 1
_SAVES = 4

Say = Callable[[str], None]
"""Told in words what is being done."""


@dataclass(frozen=True, kw_only=True)
class CutMade:
    """One cut as it happened. state: how the attempt ended. resumed_from: checkpoint, None for the beginning."""

    attempt: int
    phase: str
    step: int
    signal: str
    state: str
    resumed_from: str | None


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a verification found. reference, cut: ids of the two runs. warnings: in words."""

    recipe: str
    reference: str
    cut: str
    seed: int
    cuts: tuple[CutMade, ...]
    comparison: Comparison
    device: str
    warnings: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the run was resumed from a checkpoint and nothing differs in a single bit."""
        return self.was_resumed and self.comparison.is_exact

    @property
    def was_resumed(self) -> bool:
        """Whether any cut left a checkpoint to continue from; without one nothing is shown."""
        return any(cut.resumed_from is not None for cut in self.cuts)

    @property
    def verdict(self) -> str:
        """ "bit-exact", where the runs first differ, or why nothing is known."""
        if self.comparison.is_exact:
            return "bit-exact" if self.was_resumed else "not tested: no cut was followed by a resume from a checkpoint"
        found = [self.comparison.figure_difference, self.comparison.tensor_difference]
        return "differs: " + "; ".join(str(item) for item in found if item is not None)

    def document(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        values = {**asdict(self), "verdict": self.verdict, "holds": self.holds}
        return {"schema": _SCHEMA, "created_at": time.time(), **values, "first_step": self.comparison.first_step}


def verify_resume(source: str, overrides: Sequence[str], *, cuts: int, seed: int, say: Say) -> Certificate:
    """Train `source` undisturbed, then cut `cuts` times and resumed, on this machine, and compare.

    Both are ordinary runs, kept with the others; where the recipe saves at the end only, the second saves
    a few times on its way. The certificate is written into both folders. Raises
    RecipeError and UserError where the recipe can't be run or resumed here, and WorkerError where one of
    the runs fails for a reason of its own.
    """
    plan = _plan(source, overrides, "whole")
    recipe = plan.recipe
    if not recipe.checkpointing.save_optimizer:
        raise UserError(
            "the recipe saves no trainer state, so its runs can't be resumed exactly",
            hint="set checkpointing.save_optimizer=true",
        )
    say(f"training undisturbed: {plan.run_name}")
    reference = _finish(_launch(plan), say)
    steps = run_status(reference).step or 0
    every = recipe.training.save_every_steps or max(1, steps // (_SAVES + 1))
    plan = _plan(source, [*overrides, f"training.save_every_steps={every}"], "cut")
    wanted = choose_cuts(moments(reference), cuts, seed, first_save=every)
    say(f"training with {len(wanted)} cuts: {plan.run_name}")
    run, made = _cut_run(plan, wanted, seed, say)
    certificate = Certificate(
        recipe=plan.recipe_name,
        reference=reference.run_id,
        cut=run.run_id,
        seed=seed,
        cuts=tuple(made),
        comparison=_compare(reference, run),
        device="gpu" if recipe.cluster.gpus_per_node else "cpu",
        warnings=tuple(_warnings(recipe, made, cuts)),
    )
    for one in (reference, run):
        write_json(one.path / CERTIFICATE, certificate.document())
    return certificate


def _plan(source: str, overrides: Sequence[str], suffix: str) -> Plan:
    """The plan of one of the two runs: on this machine, every step logged."""
    from nexa.plan import make_plan
    from nexa.plugins import get_host
    from nexa.recipe.load import load_recipe
    from nexa.settings import get_settings

    name = load_recipe(source, overrides=list(overrides))
    base = (name.recipe.run.name or name.name)[:50]
    own = ["scheduler=local", "training.log_every_steps=1", f"run.name={base}-{suffix}"]
    loaded = load_recipe(source, overrides=[*overrides, *own])
    return make_plan(loaded, host=get_host(), settings=get_settings())


def _launch(plan: Plan) -> Run:
    from nexa.launching import launch_plan

    return launch_plan(plan)


def _finish(run: Run, say: Say) -> Run:
    from nexa.api import wait

    status = wait(run)
    say(f"  completed at step {status.step}")
    return run


def _cut_run(plan: Plan, wanted: Sequence[Cut], seed: int, say: Say) -> tuple[Run, list[CutMade]]:
    """Launch, cut and resume until the run completes; returns it and the cuts that were made."""
    from nexa.api import wait_until_ended
    from nexa.runs.actions import newest_checkpoint, resume

    chance = random.Random(seed)
    run = _launch(plan)
    made: list[CutMade] = []
    for cut in wanted:
        number = run.attempts[-1].number
        hit = make_cut(run, cut, chance)
        if not hit:
            status = run_status(run)
            _require_completed(run, status.state, status.reason)
            break
        status = wait_until_ended(run)
        if status.state is State.COMPLETED:
            say(f"  {cut.signal.name} while {cut.phase} at step {cut.step}: the run completed first")
            break
        _require_cut(run, cut, status.state, status.reason)
        checkpoint = newest_checkpoint(run)
        say(
            f"  cut {len(made) + 1} of {len(wanted)}: {cut.signal.name} while {cut.phase} at step {cut.step}; "
            f"continues from {checkpoint.rpartition('/')[2] if checkpoint else 'the beginning'}"
        )
        made.append(
            CutMade(
                attempt=number,
                phase=cut.phase,
                step=cut.step,
                signal=cut.signal.name,
                state=str(status.state),
                resumed_from=checkpoint,
            )
        )
        resume(run)
    return _finish(run, say), made


def _require_completed(run: Run, state: State, reason: str) -> None:
    """A run that ended before its cut must have completed. Raises WorkerError."""
    if state not in (State.COMPLETED, State.RUNNING, State.STOPPING):
        raise WorkerError(
            f"run {run.run_id} did not survive being resumed: {state}, {reason}", hint=f"nexa logs {run.run_id}"
        )


def _require_cut(run: Run, cut: Cut, state: State, reason: str) -> None:
    """A run that was sent SIGTERM must stop in order. Raises WorkerError."""
    if cut.signal.name == "SIGTERM" and state is not State.STOPPED:
        raise WorkerError(
            f"run {run.run_id} did not stop in order when asked by SIGTERM while {cut.phase} at step {cut.step}: "
            f"{state}, {reason}",
            hint=f"nexa logs {run.run_id}",
        )


def _compare(reference: Run, run: Run) -> Comparison:
    from nexa.runs.actions import open_store

    figures, figure_difference = compare_figures(read_figures(reference), read_figures(run))
    store = open_store(reference)
    both = [
        {int(item.name.rpartition("-")[2]): item.name for item in store.list(f"checkpoints/{one.run_id}")}
        for one in (reference, run)
    ]
    steps = sorted(both[0].keys() & both[1].keys())
    if not steps or steps[-1] != max(both[0]):
        raise WorkerError(f"runs {reference.run_id} and {run.run_id} have no final checkpoint in common")
    tensors = size = 0
    difference = None
    for step in steps:
        count, length, difference = compare_checkpoints(step, store.fetch(both[0][step]), store.fetch(both[1][step]))
        tensors, size = tensors + count, size + length
        if difference is not None:
            break
    return Comparison(
        figures=figures,
        checkpoints=tuple(steps),
        tensors=tensors,
        bytes=size,
        figure_difference=figure_difference,
        tensor_difference=difference,
    )


def _warnings(recipe: Recipe, made: Sequence[CutMade], wanted: int) -> list[str]:
    warnings = []
    if len(made) < wanted:
        warnings.append(f"{len(made)} of {wanted} cuts were made: the run was over, or has too few moments")
    if recipe.cluster.gpus_per_node:
        warnings.append(
            "on GPUs some kernels add in an order that changes from run to run, so that runs may differ "
            "though nothing was lost"
        )
    return warnings
