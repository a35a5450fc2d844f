"""`nexa resume`: continue a run from its newest checkpoint."""

from __future__ import annotations

import sys

import click

from nexa.cli.runref import run_argument


@click.command()
@run_argument
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--follow/--detach",
    "follow",
    default=None,
    help="Stay and show progress, or return at once. Default: follow on a terminal. Ctrl-C detaches.",
)
@click.option(
    "--from",
    "checkpoint",
    metavar="CHECKPOINT",
    help="Continue from this one of its checkpoints, such as step-00000100.",
)
@click.option("--force", is_flag=True, help="Also when the run only looks lost (lost?, stale).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    reference: str,
    overrides: tuple[str, ...],
    follow: bool | None,
    checkpoint: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Continue a run from its newest checkpoint that verifies, or from the beginning if it has none.

    RUN is an id, the start of one, a name (its newest run), or `latest`. KEY.PATH=VALUE gives it other
    machines, processes or another strategy (cluster.*, distributed.*, checkpointing.*, the microbatch) from
    now on; the rows of each step stay the same.

    \b
    nexa resume latest
    nexa resume latest cluster.processes_per_node=2 distributed=fsdp
    """
    from nexa.cli.output import print_json
    from nexa.cli.runref import open_run, status_document
    from nexa.runs.actions import resume
    from nexa.runs.state import run_status

    run = open_run(reference)
    attempt = resume(run, checkpoint=checkpoint, overrides=overrides, force=force)
    if as_json:
        print_json(status_document(run, run_status(run)))
        if not follow:
            return 0
    else:
        resumed_from = run.attempts[-1].read("attempt") or {}
        click.echo(f"{run.run_id}: attempt {attempt.number}, {resumed_from.get('reason')}")
    if follow if follow is not None else sys.stdout.isatty():
        from nexa.cli.follow import follow as follow_run

        return follow_run(run)
    if not as_json:
        click.echo(f"  watch: nexa logs -f {run.run_id}")
    return 0
