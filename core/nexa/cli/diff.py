"""`nexa diff`: in which settings and metrics runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexa.runs.compare import Comparison, MetricDifference


@click.command()
@click.argument("references", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("-k", "--key", "keys", multiple=True, metavar="NAME", help="Only this metric; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the curves side by side, one row a metric and step.")
def command(references: Sequence[str], keys: Sequence[str], as_json: bool, as_csv: bool) -> None:
    """Show in which settings and metrics runs differ; the first is what the others are held against.

    RUN is an id, the start of one, a name (its newest run), or `latest`. Metrics are compared at the last
    step that all runs have reached.
    """
    from nexa.cli.output import fail, print_json
    from nexa.cli.runref import open_runs
    from nexa.runs.compare import Comparison

    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    store = open_runs()
    comparison = Comparison([store.open(reference) for reference in references])
    comparison.poll()
    unknown = [key for key in keys if key not in comparison.metrics]
    if unknown:
        fail(
            f"none of these runs has a metric {', '.join(unknown)}",
            hint=f"they have: {', '.join(comparison.metrics) or 'none yet'}",
        )
    if as_csv:
        click.echo(comparison.csv(keys or None), nl=False)
        return
    metrics = [row for row in comparison.metric_differences() if not keys or row.name in keys]
    if as_json:
        runs = [run.run_id for run in comparison.runs]
        print_json({"runs": runs, "settings": comparison.settings(), "metrics": metrics})
    else:
        _print(comparison, metrics)


def _print(comparison: Comparison, metrics: Sequence[MetricDifference]) -> None:
    from nexa.cli.output import table

    settings = comparison.settings()
    labels = [f"{letter} {run.run_id}" for letter, run in zip("ABCDEFGH", comparison.runs, strict=False)]
    click.echo("\n".join(labels) + "\n")
    letters = [label[0] for label in labels]
    if settings:
        table(("setting", *letters), [(row.path, *map(setting_text, row.values)) for row in settings])
    else:
        click.echo("the settings are the same")
    click.echo()
    if metrics:
        table(("metric", "step", *letters), [(row.name, row.step, *metric_texts(row)) for row in metrics])
    else:
        click.echo("no metric differs")


def setting_text(value: Any) -> str:
    """A recipe's value in one line; "–" where a run lacks it."""
    from nexa.recipe.render import flow_text

    return "–" if value is None else flow_text(value)


def metric_texts(row: MetricDifference, baseline: int = 0) -> Iterator[str]:
    """Each run's figure, all but the baseline's with its change from that in percent."""
    from nexa import units
    from nexa.runs.compare import change

    figure = units.size if row.name.endswith("_bytes") else units.figure
    for index, value in enumerate(row.values):
        relative = change(value, row.values[baseline]) if index != baseline else None
        shown = figure(value) if value is not None else "–"
        yield shown if relative is None else f"{shown} ({relative:+.1%})"
