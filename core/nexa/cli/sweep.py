"""`nexa sweep`: many runs of one recipe that differ in some of its fields, and what came of them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from nexa.recipe.flags import OptionalBooleanCommand, optional_boolean, seed_flags

if TYPE_CHECKING:
    from nexa.sweeps.planning import SweepPlan
    from nexa.sweeps.store import Sweep, SweepStore

_START = "start"


class SweepGroup(click.Group):
    """A group whose command `start` may be left out: `nexa sweep RECIPE …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options before the recipe belong to `start`; the group itself has none."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [_START, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a first word that names none is the recipe of `start`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else [_START, *args])


@click.group(cls=SweepGroup)
def command() -> None:
    """Start, show and continue sweeps: many runs of one recipe.

    `nexa sweep RECIPE KEY=A,B,C` is short for `nexa sweep start RECIPE KEY=A,B,C`. SWEEP is an id, the start of
    one, a name (its newest sweep), or `latest`.

    \b
    nexa sweep quickstart optimizer.lr=1e-4,3e-4,1e-3
    nexa sweep show latest
    """


@command.command(name=_START, cls=OptionalBooleanCommand)
@click.argument("arguments", nargs=-1, metavar="RECIPE [KEY.PATH=VALUES]...")
@seed_flags
@click.option(
    "--random", "count", type=click.IntRange(min=1), metavar="N", help="N runs drawn at random instead of all."
)
@click.option("--seed", type=int, help="Seed of --random. Default: 0.")
@click.option(
    "--max-concurrent",
    type=click.IntRange(min=1),
    metavar="N",
    help="Runs at once. Default: 1 on this machine, no limit where the scheduler takes all as one job.",
)
@optional_boolean(
    "--dry-run", default=False, help="Check and plan every run, show them and the command; start nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def start(
    arguments: tuple[str, ...],
    config_mode: str | None,
    count: int | None,
    seed: int | None,
    max_concurrent: int | None,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Start a run for every combination of values. Each is an ordinary run: nexa show, stop, resume.

    VALUES are a,b,c or range(START,STOP,STEP), without STOP, or log(START,STOP,COUNT), with both ends; a
    single value is set in all runs. With --random, also uniform(START,STOP) and log(START,STOP). Every run is
    checked and planned before the first is started.

    \b
    nexa sweep quickstart "optimizer.lr=log(1e-5,1e-3,5)" training.seed=1,2,3
    nexa sweep my.yaml --random 20 --seed 7 "optimizer.lr=log(1e-5,1e-2)" --max-concurrent 2
    """
    planned = _plan(arguments, config_mode, flags, count, seed, max_concurrent)
    if dry_run:
        _show_plan(planned, as_json=as_json)
        return
    from nexa.sweeps.starting import start_sweep

    _report(start_sweep(planned), as_json=as_json)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_sweeps(as_json: bool) -> None:
    """List sweeps, newest first."""
    from nexa import units
    from nexa.cli.output import print_json, table
    from nexa.sweeps.results import progress_in_words, sweep_rows

    store = _store()
    sweeps = [(sweep, sweep_rows(sweep)) for sweep in store.list()]
    if as_json:
        print_json([{**_identity(sweep), "states": progress_in_words(rows)} for sweep, rows in sweeps])
    elif not sweeps:
        click.echo(f"There are no sweeps in {store.root}. Start one with: nexa sweep RECIPE KEY=A,B,C")
    else:
        table(
            ("sweep", "keys", "runs", "age"),
            [
                (
                    sweep.sweep_id,
                    ", ".join(sweep.document["varied"]),
                    progress_in_words(rows),
                    units.age(sweep.document["created_at"]),
                )
                for sweep, rows in sweeps
            ],
            right=("age",),
        )


@command.command()
@click.argument("reference", metavar="SWEEP")
@click.option(
    "--metric", metavar="NAME", help="Metric that tells the best run. Default: the recipe's monitor, or loss."
)
@click.option(
    "--mode",
    type=click.Choice(("auto", "min", "max")),
    default="auto",
    show_default=True,
    help="Whether smaller or larger is better; auto tells from the metric's name.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, one row a run.")
def show(reference: str, metric: str | None, mode: str, as_json: bool, as_csv: bool) -> None:
    """Show a sweep as one table: what each run tries, its state, step and metrics; the best is marked *."""
    from nexa.cli.output import fail
    from nexa.cli.sweep_view import print_csv, print_document, print_table
    from nexa.sweeps.results import best_row, metric_names, monitored, sweep_rows

    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    sweep = _store().open(reference)
    rows = sweep_rows(sweep)
    names = metric_names(rows)
    if metric is not None and metric not in names:
        fail(
            f"no run of sweep {sweep.sweep_id} has metric {metric!r}",
            hint=f"they have: {', '.join(names) or 'none yet'}",
        )
    chosen = metric or monitored(sweep, rows)
    best = best_row(rows, chosen, mode=mode) if chosen else None
    view = print_document if as_json else print_csv if as_csv else print_table
    view(sweep, rows, chosen, best)


@command.command()
@click.argument("reference", metavar="SWEEP")
@click.option("--failed", is_flag=True, help="Also runs that failed, were stopped or were killed.")
def resume(reference: str, failed: bool) -> None:
    """Start what was never started, and continue lost runs from their checkpoints.

    For a sweep whose queue was killed, or whose machine was rebooted.
    """
    from nexa.sweeps.starting import resume_sweep

    sweep = _store().open(reference)
    count = resume_sweep(sweep, failed=failed)
    click.echo(f"{sweep.sweep_id}: {count} {'run goes' if count == 1 else 'runs go'} on")
    click.echo(f"  watch: nexa sweep show {sweep.sweep_id}")


@command.command()
@click.argument("reference", metavar="SWEEP")
def stop(reference: str) -> None:
    """Ask every run of a sweep that has not ended to save a checkpoint and end; those that wait never start."""
    from nexa.cli.output import fail
    from nexa.runs import actions
    from nexa.runs.state import run_statuses

    sweep = _store().open(reference)
    runs = sweep.runs()
    active = [run for run, status in zip(runs, run_statuses(runs), strict=True) if status.active]
    if not active:
        fail(f"no run of sweep {sweep.sweep_id} is going on", hint=f"see: nexa sweep show {sweep.sweep_id}")
    # The last first, so that no run that waits takes the place of one that stops.
    for run in reversed(active):
        actions.stop(run, reason="its sweep was stopped by the user")
    click.echo(f"{sweep.sweep_id}: {len(active)} runs were asked to save a checkpoint and stop")


def _plan(
    arguments: tuple[str, ...],
    config_mode: str | None,
    flags: dict[str, Any],
    count: int | None,
    seed: int | None,
    max_concurrent: int | None,
) -> SweepPlan:
    from nexa.cli.launch import split_arguments
    from nexa.cli.output import fail
    from nexa.plugins import get_host
    from nexa.recipe.flags import flags_to_keys
    from nexa.settings import get_settings
    from nexa.sweeps.planning import plan_sweep
    from nexa.sweeps.space import grid, parse_axes, sample

    source, values = split_arguments(arguments, config_mode)
    axes = parse_axes(values)
    if not axes:
        fail("a sweep needs values to try", hint=f"such as: nexa sweep {source} optimizer.lr=1e-4,3e-4,1e-3")
    if seed is not None and count is None:
        fail("--seed belongs to --random", hint="nexa sweep RECIPE --random 20 --seed 7 KEY=VALUES")
    return plan_sweep(
        source,
        grid(axes) if count is None else sample(axes, count, seed or 0),
        flags=flags_to_keys(flags),
        method="grid" if count is None else "random",
        seed=None if count is None else seed or 0,
        max_concurrent=max_concurrent,
        host=get_host(),
        settings=get_settings(),
    )


def _show_plan(planned: SweepPlan, *, as_json: bool) -> None:
    """The runs that would be made and how they would be started."""
    from nexa.cli.output import print_json, table
    from nexa.preflight import preflight
    from nexa.sweeps.starting import planned_submission

    preflight(planned.plans[0], runs=len(planned.plans))
    submission = planned_submission(planned)
    if as_json:
        print_json(
            {
                "members": planned.members,
                "scheduler": planned.plans[0].scheduler.name,
                "max_concurrent": planned.max_concurrent,
                "submission": submission,
            }
        )
        return
    keys = planned.varied or list(planned.members[0])
    rows = [
        (number, plan.run_name, *(member[key] for key in keys))
        for number, (plan, member) in enumerate(zip(planned.plans, planned.members, strict=True), start=1)
    ]
    table(("#", "name", *keys), rows, right=("#",))
    click.echo(f"\n{shlex.join(submission.argv)}")
    for note in submission.notes:
        click.echo(f"  {note}")
    click.echo("Dry run: nothing was started.")


def _report(sweep: Sweep, *, as_json: bool) -> None:
    from nexa.cli.output import print_json

    if as_json:
        print_json({**_identity(sweep), "members": sweep.document["members"]})
        return
    click.echo(f"sweep {sweep.sweep_id}: {len(sweep.members)} runs\n  in {sweep.path}")
    click.echo(f"  watch: nexa sweep show {sweep.sweep_id}\n  stop:  nexa sweep stop {sweep.sweep_id}")


def _identity(sweep: Sweep) -> dict[str, Any]:
    names = ("created_at", "recipe_name", "scheduler", "method", "seed", "max_concurrent", "varied")
    return {"sweep_id": sweep.sweep_id, "path": str(sweep.path), **{name: sweep.document.get(name) for name in names}}


def _store() -> SweepStore:
    from nexa.settings import get_settings
    from nexa.sweeps.store import SweepStore

    return SweepStore(get_settings().runs_dir)
