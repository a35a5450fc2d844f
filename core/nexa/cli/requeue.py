"""`nexa requeue`: save a checkpoint and go back into the scheduler's queue."""

from __future__ import annotations

import click

from nexa.cli.runref import run_argument


@click.command()
@run_argument
def command(reference: str) -> None:
    """Ask a run to save a checkpoint at its next step and go back into its scheduler's queue.

    RUN is an id, the start of one, a name (its newest run), or `latest`. It starts again by itself, from
    that checkpoint; a held run is released.
    """
    from nexa.cli.runref import open_run
    from nexa.runs.actions import requeue

    run = open_run(reference)
    requeue(run)
    click.echo(f"{run.run_id}: asked to save a checkpoint and go back into the queue")
    click.echo(f"  watch: nexa logs -f {run.run_id}")
