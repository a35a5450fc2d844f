"""`nexa metrics`: a run's losses, rates and speeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from nexa.cli.runref import run_argument

if TYPE_CHECKING:
    from nexa.events.metrics import MetricTable


@click.command()
@run_argument
@click.option("-k", "--key", "keys", multiple=True, metavar="NAME", help="Only this metric; may be repeated.")
@click.option(
    "-n", "--tail", type=click.IntRange(min=0), default=None, help="Only the last N points. Default: 20 in the table."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, one row a point.")
def command(reference: str, keys: Sequence[str], tail: int | None, as_json: bool, as_csv: bool) -> None:
    """Print a run's metrics over all its attempts, without steps that a resume repeated.

    RUN is an id, the start of one, a name (its newest run), or `latest`.
    """
    from nexa.cli.output import fail, print_json
    from nexa.cli.runref import open_run
    from nexa.events.metrics import MetricsReader

    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    run = open_run(reference)
    reader = MetricsReader(run.path / "events")
    reader.poll()
    known = [*reader.training.columns, *reader.evaluation.columns]
    unknown = [key for key in keys if key not in known]
    if unknown:
        fail(f"run {run.run_id} has no metric {', '.join(unknown)}", hint=f"it has: {', '.join(known) or 'none yet'}")
    names = list(keys) or known
    if as_json:
        kinds = {"training": reader.training, "evaluation": reader.evaluation}
        points = {kind: list(_points(table, names, tail)) for kind, table in kinds.items()}
        print_json({"run_id": run.run_id, **points, "malformed_lines": reader.malformed})
    elif as_csv:
        _print_csv(reader.training, reader.evaluation, names, tail)
    elif not known:
        click.echo(f"{run.run_id} has no metrics yet")
    else:
        _print_tables(reader.training, reader.evaluation, names, 20 if tail is None else tail)


def _points(table: MetricTable, names: Sequence[str], tail: int | None) -> Iterator[dict[str, Any]]:
    """The last `tail` points that hold one of `names`, oldest first."""
    points = [
        {"step": step, "ts": ts, "values": {name: values[name] for name in names if name in values}}
        for step, ts, values in table.rows()
        if any(name in values for name in names)
    ]
    yield from points if tail is None else points[len(points) - min(tail, len(points)) :]


def _print_csv(training: MetricTable, evaluation: MetricTable, names: Sequence[str], tail: int | None) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["kind", "step", "ts", *names])
    for kind, table in (("training", training), ("evaluation", evaluation)):
        for point in _points(table, names, tail):
            writer.writerow([kind, point["step"], point["ts"], *(point["values"].get(name, "") for name in names)])


def _print_tables(training: MetricTable, evaluation: MetricTable, names: Sequence[str], tail: int) -> None:
    from nexa import units
    from nexa.cli.output import table

    parts = [(part, [name for name in names if name in part.columns]) for part in (training, evaluation)]
    first = True
    for part, columns in parts:
        points = list(_points(part, columns, tail))
        if not points:
            continue
        if not first:
            click.echo()
        first = False
        rows = [(point["step"], *(units.figure(point["values"].get(name)) for name in columns)) for point in points]
        table(("step", *columns), rows, right=("step", *columns))
    steps, values = training.series("loss") if "loss" in names else ([], [])
    if len(values) > 2:
        change = f"{units.figure(values[0])} → {units.figure(values[-1])}"
        click.echo(f"\nloss {change}, steps {steps[0]}–{steps[-1]}  {sparkline(values)}")


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """A line of block characters that follows `values`, the mean of each stretch, at most `width` wide."""
    blocks = "▁▂▃▄▅▆▇█"
    count = min(width, len(values))
    bounds = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(blocks[min(7, int((mean - low) / span * 8))] for mean in means)
