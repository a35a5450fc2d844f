"""A sweep's results as a table, as JSON, and as CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nexa.sweeps.results import SweepRow
    from nexa.sweeps.store import Sweep


def print_table(sweep: Sweep, rows: Sequence[SweepRow], metric: str | None, best: SweepRow | None) -> None:
    """One row a run: number, what it tries, state, step, loss and the chosen metric, id; the best marked *."""
    from nexa import units
    from nexa.cli.output import table
    from nexa.sweeps.results import metric_names, progress_in_words
    from nexa.text import sanitize_line

    keys = _keys(sweep)
    present = metric_names(rows)
    shown = list(dict.fromkeys(name for name in (metric, "loss") if name in present))
    cells = [
        (
            f"{'* ' if row is best else ''}{row.member.number}",
            *(row.member.overrides.get(key) for key in keys),
            _state(row),
            units.steps(row.status.step, row.status.total_steps) if row.status else "",
            *(units.figure(row.metric(name)) for name in shown),
            row.member.run_id,
        )
        for row in rows
    ]
    right = ("#", "step", *shown)
    table(("#", *keys, "state", "step", *shown, "run"), cells, right=right)
    click.echo(f"\nsweep {sweep.sweep_id}: {progress_in_words(rows)}")
    if best is not None and metric is not None:
        values = " ".join(f"{key}={best.member.overrides.get(key)}" for key in keys)
        words = f"best {metric} {units.figure(best.metric(metric))}: run {best.member.number} with {values}"
        click.echo(sanitize_line(words))
    for reason in _reasons(rows):
        click.echo(sanitize_line(reason))


def print_document(sweep: Sweep, rows: Sequence[SweepRow], metric: str | None, best: SweepRow | None) -> None:
    """The sweep and the status of every run as JSON."""
    from nexa.cli.output import print_json

    print_json(
        {
            "sweep": sweep.document,
            "path": str(sweep.path),
            "metric": metric,
            "best": best.member.run_id if best else None,
            "runs": [{**_member(row), "best": row is best, "status": row.status} for row in rows],
        }
    )


def print_csv(sweep: Sweep, rows: Sequence[SweepRow], metric: str | None, best: SweepRow | None) -> None:
    """Comma-separated values with every metric that some run has."""
    import csv

    from nexa.sweeps.results import metric_names

    keys, names = list(rows[0].member.overrides), metric_names(rows)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["number", "run_id", *keys, "state", "step", *names, "best"])
    for row in rows:
        writer.writerow(
            [
                row.member.number,
                row.member.run_id,
                *(row.member.overrides.get(key, "") for key in keys),
                _state(row),
                "" if row.status is None or row.status.step is None else row.status.step,
                *("" if (value := row.metric(name)) is None else value for name in names),
                int(row is best),
            ]
        )


def _keys(sweep: Sweep) -> list[str]:
    """Keys in which the runs differ; all of them where they do not."""
    return list(sweep.document["varied"]) or list(sweep.members[0].overrides)


def _member(row: SweepRow) -> dict[str, object]:
    return {"number": row.member.number, "run_id": row.member.run_id, "overrides": row.member.overrides}


def _state(row: SweepRow) -> str:
    return str(row.status.state) if row.status else "removed"


def _reasons(rows: Sequence[SweepRow]) -> list[str]:
    """Why runs wait or ended badly, each reason once with the runs that have it."""
    from nexa.runs.state import State

    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status is not None and row.status.reason and row.status.state is not State.COMPLETED:
            found.setdefault(f"{row.status.state}: {row.status.reason}", []).append(str(row.member.number))
    return [f"run {', '.join(numbers)}: {reason}" for reason, numbers in found.items()]
