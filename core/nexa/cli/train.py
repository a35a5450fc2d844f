"""`nexa train`: a run whose worker is this process; under torchrun each rank joins it."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nexa.recipe.arguments import CONTEXT_SETTINGS, train_arguments
from nexa.recipe.flags import OptionalBooleanCommand

if TYPE_CHECKING:
    from nexa.backend import Backend
    from nexa.recipe.load import RecipeTree
    from nexa.runs.store import Run
    from nexa.worker.place import WorkerPlace

_INTERRUPTED = b"\nSaving a checkpoint, then ending; Ctrl-C again ends at once.\n"
_INTERRUPTED_EXIT_CODE = 130


@click.command(cls=OptionalBooleanCommand, context_settings=CONTEXT_SETTINGS)
@train_arguments
@click.option("--resume", "resumed", metavar="RUN", help="Continue a run from its newest checkpoint, in this process.")
def command(resumed: str | None, **params: Any) -> int:
    """Train in this process until the end; Ctrl-C saves a checkpoint and ends.

    RECIPE is a name from `nexa recipe list` or a YAML file; without one, --task says where to start from.
    Every recipe field is a flag, too: --training-max-steps 100, or KEY.PATH=VALUE. NEXA_TRAIN_… variables
    stand for flags (NEXA_TRAIN_LR=1e-3). The run is an ordinary one: nexa runs, nexa show.

    \b
    nexa train --task regression --epochs 10
    nexa train my.yaml --training-batch-size 64 --lr 1e-3
    torchrun --nproc_per_node=2 -m nexa train --task regression
    """
    from nexa.errors import NexaError
    from nexa.worker.place import LauncherRanks

    try:
        place = _place(resumed, params)
    except NexaError:
        # One message is enough: the others would only repeat it.
        told = LauncherRanks.from_environment(os.environ)
        if told is not None and told.rank:
            return 2
        raise
    if place is None:
        return 2
    return _train(place) if place.rank == 0 else _follow_main_rank(place)


def _place(resumed: str | None, params: dict[str, Any]) -> WorkerPlace | None:
    """This process's place in the run that rank 0 makes; None where rank 0 could not make one."""
    from nexa.cli.runref import open_run
    from nexa.errors import UserError
    from nexa.foreground import agree, begin_again
    from nexa.recipe.arguments import TrainArguments

    arguments = TrainArguments.from_params(params)
    if resumed is not None:
        if arguments.source or arguments.task or arguments.overrides or arguments.flags or arguments.fields:
            raise UserError("a run is continued as it was begun", hint=f"leave all but --resume {resumed} out")
        run = open_run(resumed)
        backend = _backend(run.plan["recipe"]["backend"])
        ranks = backend.launcher_ranks(os.environ)
        return agree(backend, ranks, lambda: begin_again(run, ranks))
    return _new_place(arguments)


def _new_place(arguments: Any) -> WorkerPlace | None:
    from nexa.errors import UserError
    from nexa.foreground import agree, begin, fit_to_ranks
    from nexa.plan import make_plan
    from nexa.plugins import get_host
    from nexa.recipe.arguments import read_command
    from nexa.recipe.load import resolve_tree
    from nexa.settings import get_settings

    tree = read_command(arguments, os.environ)
    if not tree.files and tree.root.child("method") is None:
        raise UserError(
            "what shall be trained?",
            hint="name a task (--task regression), a recipe from `nexa recipe list`, or a YAML file",
        )
    backend = _backend(_backend_name(tree))
    ranks = backend.launcher_ranks(os.environ)

    def make() -> WorkerPlace:
        loaded = resolve_tree(fit_to_ranks(tree, ranks))
        return begin(make_plan(loaded, host=get_host(), settings=get_settings(), placed=ranks is not None), ranks)

    return agree(backend, ranks, make)


def _backend_name(tree: RecipeTree) -> str:
    from nexa.recipe.views import value_at

    return str(value_at(tree.root, "backend"))


def _backend(name: str) -> Backend:
    from nexa.plugins import get_host

    return get_host().create("backend", name)


def _train(place: WorkerPlace) -> int:
    """Rank 0's part: train, show progress on the terminal, report the end; returns the exit code."""
    from nexa.cli.follow import followed, report_end
    from nexa.foreground import work
    from nexa.logs import configure_logging
    from nexa.runs.state import run_status
    from nexa.runs.store import Run
    from nexa.worker.output import redirected

    run = Run(place.run_dir)
    click.echo(f"run {run.run_id}\n  in {run.path}")
    interrupted = False

    with redirected(place.log_path) as terminal, followed(run, terminal, log=place.log_path):

        def on_interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            os.write(terminal.fileno(), _INTERRUPTED)

        configure_logging(sys.stderr, run_id=run.run_id, attempt=place.attempt, rank=place.rank)
        try:
            work(place, on_interrupt=on_interrupt if place.world_size == 1 else None)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            # `work` has recorded it, and the report below tells it.
            logging.getLogger(__name__).debug("training failed", exc_info=error)
    return _report(run, run_status(run), report_end, interrupted=interrupted)


def _report(run: Run, status: Any, report_end: Any, *, interrupted: bool) -> int:
    from nexa.runs.state import State

    code: int = report_end(run, status)
    return _INTERRUPTED_EXIT_CODE if interrupted and status.state is not State.COMPLETED else code


def _follow_main_rank(place: WorkerPlace) -> int:
    """Another rank's part: train, print to its own log; returns the exit code."""
    from nexa.errors import NexaError
    from nexa.foreground import work
    from nexa.logs import configure_logging
    from nexa.worker.output import redirect_to

    redirect_to(place.log_path)
    configure_logging(sys.stderr, run_id=place.run_dir.name, attempt=place.attempt, rank=place.rank)
    try:
        work(place)
    except NexaError as error:
        return error.exit_code
    except BaseException:
        return 1
    return 0
