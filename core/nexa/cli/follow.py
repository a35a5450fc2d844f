"""Shows a run while it goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import IO, TYPE_CHECKING, Any, Protocol

import click

from nexa import units
from nexa.cli.runref import exit_code_for
from nexa.runs.progress import Progress
from nexa.text import sanitize, sanitize_line

if TYPE_CHECKING:
    from pathlib import Path

    from nexa.runs.logfile import LogFile
    from nexa.runs.state import RunStatus
    from nexa.runs.store import Run

DETACHED_EXIT_CODE = 130
_POLL_SECONDS = 0.1
_STATUS_SECONDS = 0.5
# Lines elsewhere than on a terminal come less often the longer a run lasts.
_PLAIN_SECONDS = (2.0, 60.0)
_PLAIN_LINES = 30
_LOG_LINES = 12
# A terminal that takes nothing any more must not keep an ended run from ending.
_LAST_LOOK_SECONDS = 5.0


class _View(Protocol):
    """Where progress and lines of text go."""

    def line(self, text: str) -> None:
        """Print text, already sanitized, that stays."""

    def show(self, progress: Progress) -> None:
        """Show how far the run is; called after every batch of events."""


def follow(run: Run) -> int:
    """Show a run until it ends; returns 0 when it completed, 130 after Ctrl-C, else 1 or its exit code 2.

    Ctrl-C leaves the run going on.
    """
    try:
        with _view() as view:
            status = _watch(run, view)
    except KeyboardInterrupt:
        click.echo(f"\nDetached; the run goes on.\n  watch again: nexa logs -f {run.run_id}", err=True)
        click.echo(f"  stop it:     nexa stop {run.run_id}", err=True)
        return DETACHED_EXIT_CODE
    return report_end(run, status)


@contextmanager
def followed(run: Run, stream: IO[str], *, log: Path) -> Iterator[None]:
    """Show on `stream` what the block, which is the run, does: its progress, and what it prints to `log`."""
    from nexa.runs.logfile import LogFile

    def watch() -> None:
        with _view(stream) as view:
            _watch(run, view, log=LogFile(log))

    watcher = Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        watcher.join(_LAST_LOOK_SECONDS)


def _watch(run: Run, view: _View, *, log: LogFile | None = None) -> RunStatus:
    """Feed the view with the newest attempt's events, and what is printed to `log`, until the run has ended."""
    from nexa.events.reader import EventReader
    from nexa.logs import is_record, show_line
    from nexa.runs.state import run_status

    progress = Progress()
    number = 0
    next_status = 0.0
    status = run_status(run)
    while True:
        newest = run.latest_attempt
        if newest is not None and newest.number != number:
            number = newest.number
            reader = EventReader(newest.events_path)
        if time.monotonic() >= next_status:
            # Before the events are read: an ended run's last events are then read for certain.
            status = run_status(run)
            next_status = time.monotonic() + _STATUS_SECONDS
        for record in reader.poll() if number else []:
            progress.update(record)
            for text in _lines(record):
                view.line(text)
        for text in log.new_lines(final=not status.active) if log is not None else []:
            # Nexa's own records are told as events.
            if not is_record(text):
                view.line(show_line(text))
        view.show(progress)
        if not status.active:
            return status
        time.sleep(_POLL_SECONDS)


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record says to a person beside progress, sanitized."""
    kind = record.get("type")
    if kind == "message" and record.get("level") in ("info", "warning", "error"):
        level = "" if record["level"] == "info" else f"{record['level']}: "
        yield f"{level}{sanitize_line(str(record.get('text', '')))}"
    elif kind == "eval":
        values = "  ".join(f"{name} {units.figure(value)}" for name, value in (record.get("values") or {}).items())
        yield f"step {record.get('step')}  evaluation: {sanitize_line(values)}"
    elif kind == "checkpoint":
        name = sanitize_line(str(record.get("name")))
        yield f"step {record.get('step')}  saved {name} ({units.size(record.get('bytes'))})"
    elif kind == "sample":
        yield f"step {record.get('step')}  › {sanitize_line(str(record.get('prompt', '')))}"
        lines = [line for line in sanitize(str(record.get("text", ""))).splitlines() if line.strip()]
        yield from (f"    {line}" for line in lines or ["(nothing)"])


@contextmanager
def _view(stream: IO[str] | None = None) -> Iterator[_View]:
    target = stream or sys.stdout
    if not target.isatty():
        yield _PlainView(target)
        return
    view = _TerminalView(target)
    with view.bar:
        yield view


def _figures(progress: Progress) -> list[str]:
    """The newest values in words, those that are known."""
    values = progress.values
    parts = []
    if "loss" in values:
        parts.append(f"loss {units.figure(values['loss'])}")
    if "tokens_per_second" in values:
        parts.append(f"{values['tokens_per_second']:.0f} tok/s")
    if "memory_bytes" in values:
        parts.append(units.size(values["memory_bytes"]))
    return parts


def _phase(progress: Progress) -> str:
    """The phase, sanitized, and how far it is where it says so."""
    share = f" {progress.share:.0%}" if progress.share is not None and 0 < progress.share < 1 else ""
    return sanitize_line(progress.phase) + share


class _PlainView:
    """For files and pipes: a line every few seconds at most."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown: tuple[str, int | None, float | None] | None = None
        self._begin = time.monotonic()
        self._next = 0.0

    def line(self, text: str) -> None:
        """Print one line."""
        click.echo(text, file=self._stream)

    def show(self, progress: Progress) -> None:
        """Print a line when something changed and the last line is some seconds old, or at the end."""
        now = (progress.phase, progress.step, progress.share)
        finished = progress.step is not None and progress.step == progress.total_steps
        if now == self._shown or (time.monotonic() < self._next and not finished):
            return
        self._shown = now
        shortest, longest = _PLAIN_SECONDS
        elapsed = time.monotonic() - self._begin
        self._next = time.monotonic() + min(longest, max(shortest, elapsed / _PLAIN_LINES))
        parts = [_phase(progress)]
        if progress.step is not None:
            parts = [f"step {units.steps(progress.step, progress.total_steps)}", *parts, *_figures(progress)]
            if progress.seconds_left:
                parts.append(f"{units.duration(progress.seconds_left)} left")
        click.echo("  ".join(parts), file=self._stream)


class _TerminalView:
    """For a terminal: one bar that is redrawn, lines above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self.bar = Bar(*columns, console=Console(file=stream), expand=True, refresh_per_second=8)
        self._task = self.bar.add_task("starting", total=None, figures="")

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        from rich.text import Text

        self.bar.console.print(Text(text))

    def show(self, progress: Progress) -> None:
        """Redraw the bar."""
        figures = _figures(progress)
        if progress.seconds_left is not None:
            figures.append(f"{units.duration(progress.seconds_left)} left")
        steps = units.steps(progress.step, progress.total_steps)
        self.bar.update(
            self._task,
            description=f"{_phase(progress)} {steps}".rstrip(),
            total=progress.total_steps if progress.share is None else 1.0,
            completed=(progress.step or 0) if progress.share is None else progress.share,
            figures=" · ".join(figures),
        )


def report_end(run: Run, status: RunStatus) -> int:
    """Print how a run ended and what can be done now; returns the exit code for it."""
    from nexa.runs.state import State

    took = None if status.ended_at is None or status.started_at is None else status.ended_at - status.started_at
    step = "" if status.step is None else f" at step {status.step}"
    values = [
        f"{name} {units.figure(status.metrics[name])}"
        for name in ("loss", "eval_loss", "perplexity")
        if name in status.metrics
    ]
    if "memory_bytes" in status.metrics:
        values.append(f"peak memory {units.size(status.metrics['memory_bytes'])}")
    words = [f"{status.state}{step}", *([f"in {units.duration(took)}"] if took is not None else []), *values]
    reason = f"\n  {sanitize(status.reason)}" if status.reason else ""
    click.echo(f"\n{run.run_id}: {', '.join(words)}{reason}")
    if status.state is State.FAILED and not _is_explained(run):
        _print_log_end(run)
    if status.checkpoint:
        name = sanitize_line(status.checkpoint)
        click.echo(f"  checkpoint: {name}\n  talk to it: nexa chat {name}\n  verify it:  nexa artifacts verify {name}")
    if status.state is not State.COMPLETED:
        click.echo(f"  whole log:  nexa logs {run.run_id}\n  continue:   nexa resume {run.run_id}")
    else:
        click.echo(f"  the run:    nexa show {run.run_id}")
    return exit_code_for(status)


def _is_explained(run: Run) -> bool:
    """Whether the reason says it all: an error that Nexa or a plugin raised on purpose."""
    attempt = run.latest_attempt
    error = attempt.read("error") if attempt else None
    return error is not None and not error.get("traceback")


def _print_log_end(run: Run) -> None:
    """Print the last lines of the worker's log, where a failure is explained."""
    from nexa.errors import RunError
    from nexa.logs import show_line
    from nexa.runs.logfile import SUPERVISOR, find_logs

    for rank in ("0", SUPERVISOR):
        try:
            (log,) = find_logs(run, attempt=None, rank=rank)
        except RunError:
            continue
        log.skip_to_last(_LOG_LINES)
        lines = log.new_lines(final=True)
        if lines:
            click.echo(f"  last lines of its log ({log.path.name}):")
            for line in lines:
                click.echo(f"  │ {show_line(line)}")
            return
