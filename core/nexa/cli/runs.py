"""`nexa runs`: all runs and how they are."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "-n", "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Newest runs to list; 0 for all."
)
@click.option("--active", is_flag=True, help="Only runs that have not ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(limit: int, active: bool, as_json: bool) -> None:
    """List runs and their state, newest first."""
    from nexa import units
    from nexa.cli.output import print_json, table
    from nexa.cli.runref import open_runs, status_document
    from nexa.runs.state import run_statuses

    store = open_runs()
    runs = store.list()
    shown = runs if active or not limit else runs[:limit]
    listed = list(zip(shown, run_statuses(shown), strict=True))
    if active:
        listed = [(run, status) for run, status in listed if status.active]
    if as_json:
        print_json([status_document(run, status) for run, status in listed])
        return
    if not listed:
        what = "active runs" if active else "runs"
        click.echo(f"There are no {what} in {store.root}. Start one with: nexa launch quickstart")
        return
    rows = [
        (
            run.run_id,
            status.state,
            units.steps(status.step, status.total_steps),
            units.figure(status.metrics.get("loss")),
            units.age(status.created_at),
            _short(status.reason),
        )
        for run, status in listed
    ]
    table(("run", "state", "step", "loss", "age", "reason"), rows, right=("step", "loss", "age"))
    if len(shown) < len(runs):
        click.echo(f"… and {len(runs) - len(shown)} older; all: nexa runs -n 0", err=True)


def _short(text: str, width: int = 60) -> str:
    """The start of a reason; `nexa show` tells the whole."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
