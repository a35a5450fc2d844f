"""`nexa launch`: resolve a recipe, show what will happen, start it, and follow it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nexa.recipe.flags import OptionalBooleanCommand, optional_boolean, seed_flags

if TYPE_CHECKING:
    from nexa.plan import Plan
    from nexa.recipe.load import LoadedRecipe, RecipeTree
    from nexa.runs.store import Run


@click.command(cls=OptionalBooleanCommand)
@click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY.PATH=VALUE]...")
@seed_flags
@optional_boolean(
    "--dry-run",
    default=False,
    help="Check everything, load the data, show plan and first batch; start nothing.",
)
@click.option("--explain", is_flag=True, help="Show plan and exact commands; load no data, start nothing.")
@click.option(
    "--follow/--detach",
    default=None,
    help="Stay and show progress, or return at once. Default: follow on a terminal. Ctrl-C detaches.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs; detaches unless --follow is given.")
def command(
    arguments: tuple[str, ...],
    config_mode: str | None,
    dry_run: bool,
    explain: bool,
    follow: bool | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train what a recipe describes.

    RECIPE is a name from `nexa recipe list` or a YAML file; KEY.PATH=VALUE changes one of its fields.

    \b
    nexa launch quickstart
    nexa launch my.yaml training.max_steps=100 optimizer.lr=1e-4
    nexa launch --config-mode v1 --run-name trial --model-size small --dataset rows.jsonl
    """
    from nexa.plan import make_plan
    from nexa.plugins import get_host
    from nexa.settings import get_settings

    loaded = _load(arguments, config_mode, flags)
    plan = make_plan(loaded, host=get_host(), settings=get_settings())
    if explain:
        return _explain(plan, as_json=as_json)
    if dry_run:
        return _dry_run(plan, as_json=as_json)
    return _launch(plan, follow=follow, as_json=as_json)


def split_arguments(arguments: Sequence[str], config_mode: str | None) -> tuple[str, list[str]]:
    """The one recipe that a command line names, and its KEY=VALUE words. Raises UserError."""
    from nexa.cli.output import fail

    sources = [argument for argument in arguments if "=" not in argument]
    if config_mode is not None:
        sources.append(config_mode)
    if not sources:
        fail("which recipe?", hint="name one from `nexa recipe list`, a YAML file, or --config-mode v1")
    if len(sources) > 1:
        fail(
            f"one run has one recipe, not {' and '.join(map(repr, sources))}",
            hint="overrides have the form key.path=value",
        )
    return sources[0], [argument for argument in arguments if "=" in argument]


def _load(arguments: Sequence[str], config_mode: str | None, flags: dict[str, Any]) -> LoadedRecipe:
    """The recipe that the command line names, with its overrides and flags on top."""
    from nexa.recipe.flags import flags_to_keys
    from nexa.recipe.load import apply_typed, load_recipe, resolve_tree

    source, overrides = split_arguments(arguments, config_mode)
    keys = flags_to_keys(flags)
    foreign = _foreign(source, keys.get("backend"))
    if foreign is not None:
        return resolve_tree(apply_typed(foreign, overrides, keys))
    return load_recipe(source, overrides=overrides, flags=keys)


def _foreign(source: str, backend: str | None) -> RecipeTree | None:
    """The recipe of a file that is the named backend's own configuration; None for a recipe."""
    if backend is None or not source.endswith((".yaml", ".yml")):
        return None
    from pathlib import Path

    from nexa.plugins import get_host
    from nexa.recipe.imports import import_file, tree_of
    from nexa.text import sanitize

    imported = import_file(source, get_host().spec("backend", backend))
    if imported is None:
        return None
    for note in imported.notes:
        click.echo(f"note: {sanitize(note)}", err=True)
    return tree_of(imported, Path(source).expanduser().absolute())


def _document(plan: Plan) -> dict[str, Any]:
    """The plan for programs, with what stops it from starting here."""
    return {**plan.document(), "obstacles": [str(problem) for problem in plan.obstacles]}


def _explain(plan: Plan, *, as_json: bool) -> int:
    from nexa.cli.output import print_json
    from nexa.cli.plan_view import commands_text, plan_text
    from nexa.plan import example_attempt
    from nexa.plugins import get_host
    from nexa.text import sanitize

    attempt = example_attempt(plan.runs_dir)
    submission = plan.submission(attempt)
    worker = plan.worker_argv(attempt)
    rendered = get_host().create("backend", plan.backend.name).explain(plan.recipe, attempt.run_dir)
    if as_json:
        more = {"rendered": rendered} if rendered else {}
        print_json({**_document(plan), "submission": submission, "worker_argv": worker, **more})
    else:
        click.echo(plan_text(plan))
        click.echo(commands_text(plan, submission, worker))
        if rendered:
            click.echo(sanitize(rendered), nl=False)
    plan.require_startable()
    return 0


def _dry_run(plan: Plan, *, as_json: bool) -> int:
    from nexa.cli.output import print_json
    from nexa.cli.plan_view import plan_text, preview_text
    from nexa.plugins import get_host
    from nexa.preflight import preflight

    if not plan.obstacles:
        preflight(plan)
    preview = get_host().create("backend", plan.backend.name).preview(plan.recipe)
    if as_json:
        print_json({**_document(plan), "preview": preview})
    else:
        click.echo(plan_text(plan))
        click.echo(preview_text(preview, colour=sys.stdout.isatty()))
        click.echo("Dry run: nothing was started.")
    plan.require_startable()
    return 0


def _launch(plan: Plan, *, follow: bool | None, as_json: bool) -> int:
    from nexa.launching import launch_plan

    run = launch_plan(plan)
    if as_json:
        return _report(run, wait=bool(follow))
    click.echo(f"run {run.run_id}\n  in {run.path}")
    if follow if follow is not None else sys.stdout.isatty():
        from nexa.cli.follow import follow as follow_run

        return follow_run(run)
    click.echo(f"  watch: nexa logs -f {run.run_id}\n  stop:  nexa stop {run.run_id}")
    return 0


def _report(run: Run, *, wait: bool) -> int:
    """Print the run as JSON, with `wait` after its end; return the exit code."""
    from nexa.api import wait_until_ended
    from nexa.cli.output import print_json
    from nexa.cli.runref import exit_code_for, status_document
    from nexa.runs.state import run_status

    status = wait_until_ended(run) if wait else run_status(run)
    print_json(status_document(run, status))
    return exit_code_for(status) if wait else 0
