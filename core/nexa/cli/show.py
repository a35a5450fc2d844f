"""`nexa show`: everything about one run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nexa.cli.runref import run_argument
from nexa.text import sanitize, sanitize_line

if TYPE_CHECKING:
    from nexa.artifacts import StoredArtifact
    from nexa.runs.state import RunStatus
    from nexa.runs.store import Run


@click.command()
@run_argument
@click.option("--samples", is_flag=True, help="Show the answers sampled first and last instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(reference: str, samples: bool, as_json: bool) -> None:
    """Show one run: state and reason, progress, metrics, attempts, checkpoints, recipe.

    RUN is an id, the start of one, a name (its newest run), or `latest`.
    """
    from nexa.cli.output import print_json
    from nexa.cli.runref import open_run, status_document
    from nexa.runs.changes import recipe_changes
    from nexa.runs.state import run_status

    run = open_run(reference)
    if samples:
        _show_samples(run, as_json=as_json)
        return
    status = run_status(run)
    checkpoints, trouble = _checkpoints(run)
    attempts = list(_attempts(run))
    if as_json:
        print_json(
            {
                **status_document(run, status),
                "run": run.document,
                "attempts": attempts,
                "checkpoints": [{"name": item.name, "meta": item.meta} for item in checkpoints],
                "recipe_changes": recipe_changes(run),
            }
        )
        return
    for name, text in _facts(run, status):
        if text:
            click.echo(sanitize(f"{name:<12}{text}"))
    _print_attempts(attempts)
    _print_checkpoints(checkpoints, trouble)
    changes = recipe_changes(run)
    if changes:
        click.echo(sanitize(f"\nrecipe, where it differs from {run.document.get('recipe_path')}:"))
        for path, (there, here) in changes.items():
            click.echo(sanitize(f"  {path}: {_value(there)} → {_value(here)}"))
    click.echo()
    for line in _next_commands(run, status):
        click.echo(line)


def _show_samples(run: Run, *, as_json: bool) -> None:
    from dataclasses import asdict

    from nexa.cli.output import print_json
    from nexa.runs.samples import sample_changes

    changes = sample_changes(run)
    if as_json:
        print_json([asdict(change) for change in changes])
    elif not changes:
        click.echo("No samples yet; a recipe names prompts in samples.prompts.")
    for change in [] if as_json else changes:
        click.echo(sanitize_line(change.prompt))
        click.echo(f"  before  {_flowing(change.first)}")
        if change.last_step > change.first_step:
            click.echo(f"  after   {_flowing(change.last)}")


def _flowing(answer: str) -> str:
    """An answer in lines that fit a terminal, indented under its heading."""
    import shutil
    import textwrap

    width = max(40, min(shutil.get_terminal_size().columns, 100))
    indent = " " * 10
    lines = textwrap.wrap(
        sanitize_line(" ".join(answer.split())), width, initial_indent=indent, subsequent_indent=indent
    )
    return "\n".join(lines).strip() or "(nothing)"


def _facts(run: Run, status: RunStatus) -> Iterator[tuple[str, str]]:
    """Names and texts of the first block; empty texts are left out."""
    from nexa import units
    from nexa.runs.progress import Progress

    document = run.document
    yield "run", run.run_id
    yield "state", f"{status.state}{f': {status.reason}' if status.reason else ''}"
    step = units.steps(status.step, status.total_steps)
    progress = Progress(step=status.step, total_steps=status.total_steps, values=dict(status.metrics))
    left = progress.seconds_left if status.state == "running" else None
    yield "step", step + (f", about {units.duration(left)} left" if left else "")
    yield "phase", status.phase or ""
    yield "metrics", "  ".join(f"{name} {units.figure(value)}" for name, value in status.metrics.items())
    yield "machine", _machine(run) if status.active else ""
    yield "recipe", f"{document.get('recipe_name')} ({document.get('recipe_path')})"
    backend = f"{document.get('method')} by {document.get('backend')}, on {document.get('scheduler')}"
    yield "trains", backend
    yield "launched", f"{units.clock(status.created_at)} by {document.get('user')} on {document.get('host')}"
    yield "command", shlex.join(map(str, document.get("argv") or []))
    yield "continues", str(document.get("parent") or "")
    yield "verified", _certificate(run)
    yield "folder", str(run.path)


def _certificate(run: Run) -> str:
    """What `nexa verify-resume` found out with this run, empty where it was not part of one."""
    from nexa.files import read_json
    from nexa.verification.resume import CERTIFICATE

    document = read_json(run.path / CERTIFICATE)
    if document is None:
        return ""
    kinds = ", ".join(f"{cut['signal']} while {cut['phase']} at step {cut['step']}" for cut in document["cuts"])
    return f"cut and resumed ({kinds or 'no cut was made'}): {document['verdict']}"


def _machine(run: Run) -> str:
    """The newest meters of rank 0; "" before the first."""
    from nexa import units
    from nexa.events.reader import read_tail

    attempt = run.latest_attempt
    records = read_tail(attempt.events_path) if attempt else []
    meters = next((record for record in reversed(records) if record.get("type") == "system"), None)
    if meters is None:
        return ""
    parts = [f"CPU {meters['cpu_percent']:.0f} %"] if meters.get("cpu_percent") is not None else []
    if meters.get("rss_bytes") is not None:
        parts.append(f"memory {units.size(meters['rss_bytes'])}")
    for gpu in meters.get("gpus") or ():
        use = gpu.get("utilization_percent")
        used, total = units.size(gpu.get("memory_bytes")), units.size(gpu.get("memory_total_bytes"))
        parts.append(f"GPU {gpu.get('gpu')} {'?' if use is None else use} %, {used} of {total}")
    return "  ".join(parts)


def _attempts(run: Run) -> Iterator[dict[str, Any]]:
    """What is recorded of each attempt, oldest first."""
    for attempt in run.attempts:
        begin = attempt.read("attempt") or {}
        end = attempt.read("exit") or {}
        yield {
            "number": attempt.number,
            "reason": begin.get("reason"),
            "resume_from": begin.get("resume_from"),
            "started_at": begin.get("created_at"),
            "ended_at": end.get("ended_at"),
            "state": end.get("state"),
            "end_reason": end.get("reason"),
            "exit_code": end.get("exit_code"),
            "job": attempt.read("job"),
        }


def _print_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    from nexa import units
    from nexa.cli.output import table

    if len(attempts) < 2:
        return
    rows = []
    for item in attempts:
        took = item["ended_at"] - item["started_at"] if item["ended_at"] and item["started_at"] else None
        end = item["state"] or ""
        if item["end_reason"]:
            end += f": {item['end_reason']}"
        rows.append((item["number"], units.clock(item["started_at"]), units.duration(took), item["reason"], end))
    click.echo()
    table(("attempt", "started", "took", "begun", "ended"), rows)


def _checkpoints(run: Run) -> tuple[list[StoredArtifact], str]:
    """The run's checkpoints, oldest first, and why they can't be listed, if so."""
    from nexa.errors import NexaError
    from nexa.runs.actions import open_store

    try:
        return list(open_store(run).list(f"checkpoints/{run.run_id}")), ""
    except NexaError as error:
        return [], error.message


def _print_checkpoints(checkpoints: Sequence[StoredArtifact], trouble: str) -> None:
    from nexa import units
    from nexa.cli.output import table

    if trouble:
        click.echo(sanitize(f"\ncheckpoints can't be listed: {trouble}"))
    elif checkpoints:
        click.echo()
        rows = [
            (item.name, units.size(item.meta.bytes), item.damage or ("pinned" if item.pinned else ""))
            for item in checkpoints
        ]
        table(("checkpoint", "size", ""), rows, right=("size",))


def _value(value: Any) -> str:
    import json

    return "(unset)" if value is None else json.dumps(value, ensure_ascii=False)


def _next_commands(run: Run, status: RunStatus) -> Iterator[str]:
    yield f"log:      nexa logs {'-f ' if status.active else ''}{run.run_id}"
    yield f"metrics:  nexa metrics {run.run_id}"
    if run.plan["recipe"]["samples"]["prompts"]:
        yield f"samples:  nexa show {run.run_id} --samples"
    if status.active:
        yield f"stop:     nexa stop {run.run_id}"
    elif status.state != "completed":
        yield f"continue: nexa resume {run.run_id}"
