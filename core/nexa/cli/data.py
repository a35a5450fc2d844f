"""`nexa data`: look at a recipe's data as training sees it, and keep the folders of prepared data in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexa.prepared import PreparedCache, PreparedEntry

_DAY = 86400.0
_KEY_SHOWN = 12


def _cache_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--cache",
        metavar="FOLDER",
        help="Cache folder, as in data.local_cache_root. Default: $NEXA_CACHE_DIR, else the user's cache folder.",
    )(function)


def _json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


@click.group()
def command() -> None:
    """Look at data as training sees it; list, verify and remove prepared data.

    KEY is the key of prepared data, or the start of one; see `nexa data list`.
    """


@command.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--row", "first", type=click.IntRange(min=0), default=0, help="First row to show, counted from 0.")
@click.option("--rows", "count", type=click.IntRange(min=1), default=2, help="How many rows to show.")
@_json_option
def show(recipe: str, overrides: Sequence[str], first: int, count: int, as_json: bool) -> None:
    """Print training rows, token by token, with those that carry loss marked.

    On a terminal trained tokens are green and underlined, elsewhere they stand between ⟦ and ⟧. The
    data is prepared first where it is not yet.
    """
    from nexa.cli.output import print_json
    from nexa.cli.plan_view import row_lines
    from nexa.cli.prepare import preparing_backend

    loaded, backend = preparing_backend(recipe, overrides)
    rows = backend.show_rows(loaded, first, count)
    if as_json:
        print_json([{"row": number, "tokens": row} for number, row in enumerate(rows, start=first)])
        return
    for number, row in enumerate(rows, start=first):
        for line in row_lines(number, row, colour=sys.stdout.isatty()):
            click.echo(line)


@command.command("list")
@_cache_option
@_json_option
def list_command(cache: str | None, as_json: bool) -> None:
    """List prepared data, the newest first."""
    from nexa import units
    from nexa.cli.output import print_json, table

    entries = _cache(cache).list()
    if as_json:
        print_json([_record(entry) for entry in entries])
    elif not entries:
        click.echo(f"no prepared data in {_cache(cache).folder}", err=True)
    else:
        rows = [
            (
                entry.key[:_KEY_SHOWN],
                entry.index.get("source"),
                entry.index.get("tokenizer"),
                f"{int(entry.index.get('documents', 0)):,}",
                f"{int(entry.index.get('tokens', 0)):,}",
                units.size(entry.bytes),
                units.age(entry.used_at),
            )
            for entry in entries
        ]
        table(
            ("KEY", "DATA", "TOKENIZER", "DOCUMENTS", "TOKENS", "SIZE", "USED"),
            rows,
            right=("DOCUMENTS", "TOKENS", "SIZE", "USED"),
        )


@command.command()
@click.argument("key", nargs=-1)
@_cache_option
@_json_option
@click.pass_context
def verify(ctx: click.Context, key: tuple[str, ...], cache: str | None, as_json: bool) -> None:
    """Hash every file of prepared data and compare; exit code 1 when anything differs.

    Without KEY, all prepared data is verified.
    """
    from nexa.cli.output import print_json
    from nexa.text import sanitize

    prepared = _cache(cache)
    chosen = [prepared.find(each) for each in key] if key else prepared.list()
    report = {entry.key: list(_damages(entry)) for entry in chosen}
    if as_json:
        print_json([{"key": each, "whole": not found, "damages": found} for each, found in report.items()])
    else:
        for each, found in report.items():
            click.echo(f"{each[:_KEY_SHOWN]}  {'damaged' if found else 'whole'}")
            for damage in found:
                click.echo(f"  {sanitize(damage)}")
    if any(report.values()):
        ctx.exit(1)


@command.command()
@click.argument("key", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all prepared data.")
@click.option("--unused-days", type=click.FloatRange(min=0), help="Remove what no run used for this many days.")
@_cache_option
@_json_option
def remove(key: tuple[str, ...], everything: bool, unused_days: float | None, cache: str | None, as_json: bool) -> None:
    """Remove prepared data, and what interrupted preparations left; it is made again when needed."""
    import time

    from nexa import units
    from nexa.cli.output import fail, print_json

    if sum((bool(key), everything, unused_days is not None)) != 1:
        fail("which prepared data?", hint="give keys from `nexa data list`, or --all, or --unused-days DAYS")
    prepared = _cache(cache)
    chosen = [prepared.find(each) for each in key] if key else prepared.list()
    if unused_days is not None:
        chosen = [entry for entry in chosen if time.time() - entry.used_at > unused_days * _DAY]
    records = [_record(entry) for entry in chosen]
    for entry in chosen:
        prepared.remove(entry)
    unfinished = prepared.remove_litter()
    if as_json:
        print_json({"removed": records, "unfinished": unfinished})
        return
    for record in records:
        click.echo(f"removed {record['key'][:_KEY_SHOWN]} ({units.size(record['bytes'])})")
    if unfinished:
        click.echo(f"removed {unfinished} unfinished")
    if not records and not unfinished:
        click.echo("nothing to remove", err=True)


def _cache(folder: str | None) -> PreparedCache:
    from nexa.prepared import PreparedCache, cache_root

    return PreparedCache(Path(folder).expanduser() if folder else cache_root())


def _damages(entry: PreparedEntry) -> Iterator[str]:
    """What is wrong with an entry's files and the rows worked out over them."""
    from nexa.prepared import damages

    for each in (entry, *entry.parts("rows")):
        yield from damages(each)


def _record(entry: PreparedEntry) -> dict[str, Any]:
    """An entry as one flat JSON object."""
    fields = {name: value for name, value in entry.index.items() if name != "files"}
    return {**fields, "bytes": entry.bytes, "used_at": entry.used_at, "folder": entry.path}
