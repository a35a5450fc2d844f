"""`nexa logs`: what a run's workers and its supervisor wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nexa.cli.runref import run_argument

if TYPE_CHECKING:
    from nexa.runs.logfile import LogFile
    from nexa.runs.store import Run

_POLL_SECONDS = 0.2


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run ends. Ctrl-C leaves it running.")
@click.option("--rank", default=None, metavar="N|supervisor|all", help="Whose log. Default: rank 0.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt. Default: the newest.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Begin at the last N lines. Default: at the start.")
@click.option("--raw", is_flag=True, help="JSON lines as they are; control characters are shown all the same.")
def command(reference: str, follow: bool, rank: str | None, attempt: int | None, tail: int | None, raw: bool) -> int:
    """Print what a run's workers wrote.

    RUN is an id, the start of one, a name (its newest run), or `latest`.
    """
    from nexa.cli.runref import open_run
    from nexa.runs.logfile import SUPERVISOR, find_logs

    if rank not in (None, "all", SUPERVISOR) and not str(rank).isdigit():
        raise click.BadParameter("a number, 'supervisor' or 'all'", param_hint="--rank")
    run = open_run(reference)
    files = find_logs(run, attempt=attempt, rank=rank or "0")
    if rank is None and not follow and not files[0].path.exists():
        # The worker never came to write anything; its supervisor says why.
        files = find_logs(run, attempt=attempt, rank=SUPERVISOR)
    if tail is not None:
        for file in files:
            file.skip_to_last(tail)
    try:
        if follow:
            _follow(run, files, attempt, raw)
        else:
            _print(files, raw, final=True)
    except KeyboardInterrupt:
        click.echo(f"\n{run.run_id} goes on; to end it: nexa stop {run.run_id}", err=True)
        return 130
    return 0


def _follow(run: Run, files: Sequence[LogFile], attempt: int | None, raw: bool) -> None:
    import time

    from nexa.runs.state import run_status

    while True:
        newest = run.latest_attempt
        superseded = attempt is not None and newest is not None and newest.number != attempt
        # Asked before reading: what was written before the end is then read for certain.
        ended = superseded or not run_status(run).active
        _print(files, raw, final=ended)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def _print(files: Sequence[LogFile], raw: bool, *, final: bool) -> None:
    from nexa.logs import show_line
    from nexa.text import sanitize

    show = sanitize if raw else show_line
    for file in files:
        prefix = f"[{file.source}] " if len(files) > 1 else ""
        for line in file.new_lines(final=final):
            click.echo(prefix + show(line))
