"""`nexa prepare`: make a recipe's data ready before a run, as a step of its own on any CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexa.backend import Backend, Preparation, PreparedPart, PrepareProgress
    from nexa.recipe.schema import Recipe

PREPARE = "prepare"


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(recipe: str, overrides: Sequence[str], as_json: bool) -> None:
    """Encode and pack a recipe's data and keep it, so that runs start at once.

    Needs no GPU and loads no model. What is prepared already is found again by its content; work that was
    interrupted goes on where it stopped.
    """
    import time

    from nexa.cli.output import print_json
    from nexa.text import sanitize

    loaded, backend = preparing_backend(recipe, overrides)
    started = time.monotonic()
    with progress_bar() as on_progress:
        done = backend.prepare(loaded, on_progress=on_progress)
    if as_json:
        print_json(done)
        return
    for name, text in _facts(done, time.monotonic() - started):
        click.echo(sanitize(f"{name:<10}{text}"))
    for warning in done.warnings:
        click.echo(f"{click.style('warning:', fg='yellow')} {sanitize(warning)}", err=True)


def preparing_backend(recipe: str, overrides: Sequence[str]) -> tuple[Recipe, Backend]:
    """Load a recipe and its backend. Raises UserError where that backend prepares no data."""
    from nexa.errors import UserError
    from nexa.plugins import get_host
    from nexa.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides).recipe
    host = get_host()
    if PREPARE not in host.spec("backend", loaded.backend).capabilities:
        able = ", ".join(spec.name for spec in host.specs("backend") if PREPARE in spec.capabilities)
        raise UserError(f"backend {loaded.backend!r} prepares no data before a run", hint=f"these do: {able}")
    backend: Backend = host.create("backend", loaded.backend)
    return loaded, backend


@contextmanager
def progress_bar(phases: Mapping[str, str] | None = None) -> Iterator[PrepareProgress | None]:
    """What `Backend.prepare` reports as a bar on a terminal; None elsewhere. phases: what is shown for some of them."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    names = _PHASES if phases is None else phases
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True, transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def show(phase: str, done: int, total: int | None) -> None:
            bar.update(task, description=names.get(phase, phase), completed=done, total=total)

        yield show


_PHASES = {"tokenizing": "encoding documents", "waiting": "another process prepares this data"}


def _facts(done: Preparation, seconds: float) -> Iterator[tuple[str, str]]:
    from nexa import units

    yield "data", "prepared already" if done.reused else f"prepared in {units.duration(seconds)}"
    yield "training", _part(done.train, done.row_length)
    if done.validation is not None:
        yield "held out", _part(done.validation, done.row_length)
    yield "size", units.size(done.bytes)
    for folder in done.folders:
        yield "folder", str(folder)


def _part(part: PreparedPart, row_length: int) -> str:
    places = part.rows * row_length
    return (
        f"{part.documents:,} documents, {part.tokens:,} tokens ({part.trained_tokens:,} trained on), in {part.rows:,} "
        f"rows of up to {row_length:,}; {part.empty_places:,} places empty ({part.empty_places / max(1, places):.2%})"
    )
