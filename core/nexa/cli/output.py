"""What every command prints with: JSON, tables, and the one way errors reach a person.

Text that comes from recipes, logs, plugins or file names is sanitized here, so that no terminal
escape in it takes effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import click

from nexa.errors import NexaError, UserError

BUG_EXIT_CODE = 70


def print_json(value: Any) -> None:
    """Print JSON for programs: ASCII, two-space indent; dataclasses become objects, NaN null."""
    import json

    click.echo(json.dumps(to_json(value), indent=2))


def to_json(value: Any) -> Any:
    """Return `value` as plain JSON values; raises TypeError for what has no JSON form."""
    import dataclasses
    import math
    from pathlib import PurePath

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(to_json(item) for item in value)
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print rows under headings; columns named in `right` are right-aligned.

    On a terminal the table fits its width; elsewhere columns are aligned with spaces and nothing is
    cut, so that `grep` and `awk` see whole values.
    """
    from nexa.text import sanitize

    cells = [[sanitize("" if cell is None else str(cell)).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_on_terminal(columns, cells, right)
    else:
        _print_plain(columns, cells, right)


def _print_plain(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        padded = [
            text.rjust(width) if column in right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _print_on_terminal(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(text) for text in row))
    Console().print(grid)


def fail(message: str, *, hint: str | None = None) -> NoReturn:
    """End the command because of what was typed: exit code 2, the message, what to type."""
    raise UserError(message, hint=hint)


def report_error(error: NexaError) -> None:
    """Print an expected error on stderr."""
    from nexa.text import sanitize

    click.echo(f"{click.style('error:', fg='red', bold=True)} {sanitize(str(error))}", err=True)


def report_bug(error: BaseException) -> int:
    """Print an unexpected error in one line and keep its traceback in a file; return the exit code.

    With NEXA_DEBUG=1 the traceback goes to stderr instead.
    """
    import traceback

    from nexa.text import redact, sanitize

    details = redact(sanitize("".join(traceback.format_exception(error))))
    summary = redact(sanitize(f"{type(error).__name__}: {error}"))
    if os.environ.get("NEXA_DEBUG", "") not in ("", "0"):
        click.echo(details, err=True)
        where = ""
    else:
        where = f"\n  The traceback is in {_keep(details)}; NEXA_DEBUG=1 prints it here."
    label = click.style("internal error:", fg="red", bold=True)
    click.echo(f"{label} {summary}\n  This is a bug in Nexa or a plugin, not in what you typed.{where}", err=True)
    return BUG_EXIT_CODE


def _keep(details: str) -> str:
    """Write a traceback to a new private file and return its path, or why that failed."""
    import tempfile

    try:
        descriptor, path = tempfile.mkstemp(prefix="nexa-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(details)
    except OSError as error:
        return f"no file ({error})"
    return path
