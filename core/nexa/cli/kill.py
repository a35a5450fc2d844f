"""`nexa kill`: end all processes of a run at once."""

from __future__ import annotations

import click

from nexa.cli.runref import run_argument


@click.command()
@run_argument
def command(reference: str) -> None:
    """End all processes of a run, after two seconds by force.

    RUN is an id, the start of one, a name (its newest run), or `latest`. What takes longer to save is
    lost; to save a checkpoint first: nexa stop.
    """
    from nexa.cli.runref import open_run
    from nexa.runs.actions import kill

    run = open_run(reference)
    status = kill(run)
    step = "" if status.step is None else f" at step {status.step}"
    click.echo(f"{run.run_id}: {status.state}{step}")
    if status.checkpoint:
        click.echo(f"  newest checkpoint: {status.checkpoint}\n  continue from it:  nexa resume {run.run_id}")
