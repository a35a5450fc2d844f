"""`nexa cluster`: what a scheduler has, what is free, and this user's jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nexa.scheduler import ClusterView, NodeResources


@click.command()
@click.option("--scheduler", metavar="NAME", help="Scheduler plugin. Default: the scheduler of your settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(scheduler: str | None, as_json: bool) -> int:
    """Show machines, what of them is free, partitions, and your jobs with the reason why they wait.

    A scheduler that can't be asked is quoted, and the exit code is 1.
    """
    from nexa.cli.output import print_json
    from nexa.errors import NexaError
    from nexa.plugins import get_host
    from nexa.settings import get_settings

    name = scheduler or get_settings().scheduler
    view: ClusterView = get_host().create("scheduler", name).cluster()
    if as_json:
        print_json({"scheduler": name, **_document(view)})
        return 1 if view.problem else 0
    _print(view)
    if view.problem:
        raise NexaError(f"scheduler {name!r} can't be asked: {view.problem}")
    return 0


def _document(view: ClusterView) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(view)


def _print(view: ClusterView) -> None:
    from nexa import units
    from nexa.cli.output import table
    from nexa.cluster_text import job_line, share

    if view.partitions:
        rows = [
            (
                partition.name + (" *" if partition.is_default else ""),
                partition.state,
                f"{partition.idle_nodes}/{partition.nodes}",
                units.duration(partition.max_seconds) or "any",
            )
            for partition in view.partitions
        ]
        table(("partition", "state", "idle nodes", "longest"), rows, right=("idle nodes", "longest"))
        click.echo()
    if view.nodes:
        nodes = [
            (
                node.name,
                node.state,
                share(node.free_cpus, node.cpus),
                _gpus(node),
                share(node.free_memory_bytes, node.memory_bytes, units.size),
                ", ".join(node.partitions),
                node.reason,
            )
            for node in view.nodes
        ]
        free = ("CPUs free", "GPUs free", "memory free")
        table(("node", "state", *free, "partitions", "reason"), nodes, right=free)
        click.echo()
    if view.jobs:
        jobs = [
            (
                job.job_id,
                job.run_id or job.name,
                job.state,
                job.partition,
                units.age(job.submitted_at),
                job_line(job, view.taken_at),
            )
            for job in view.jobs
        ]
        table(("job", "run", "state", "partition", "age", "where, or why it waits"), jobs, right=("age",))
    elif not view.problem:
        click.echo("No jobs of yours.")


def _gpus(node: NodeResources) -> str:
    from nexa.cluster_text import share

    return f"{share(node.free_gpus, node.gpus)} {node.gpu_type}".strip() if node.gpus else "–"
