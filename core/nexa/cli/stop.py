"""`nexa stop`: save a checkpoint at the next step, then end."""

from __future__ import annotations

import click

from nexa.cli.runref import run_argument


@click.command()
@run_argument
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
def command(reference: str, wait: bool) -> int:
    """Ask a run to save a checkpoint at its next step and end.

    RUN is an id, the start of one, a name (its newest run), or `latest`.
    """
    from nexa.cli.runref import open_run
    from nexa.runs.actions import stop

    run = open_run(reference)
    stop(run)
    click.echo(f"{run.run_id}: asked to save a checkpoint and stop")
    if not wait:
        click.echo(f"  wait for it: nexa logs -f {run.run_id}\n  continue:    nexa resume {run.run_id}")
        return 0
    return _wait(run.run_id)


def _wait(run_id: str) -> int:
    """Wait for the end and report it; 0 when the run stopped or completed in order."""
    import time

    from nexa.cli.runref import open_run
    from nexa.runs.state import State, run_status

    run = open_run(run_id)
    while (status := run_status(run)).active:
        time.sleep(0.2)
    from nexa.text import sanitize

    step = "" if status.step is None else f" at step {status.step}"
    reason = f": {status.reason}" if status.reason else ""
    click.echo(sanitize(f"{run.run_id}: {status.state}{step}{reason}"))
    if status.checkpoint:
        click.echo(f"  checkpoint: {status.checkpoint}")
    return 0 if status.state in (State.STOPPED, State.COMPLETED) else 1
