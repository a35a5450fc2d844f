"""Slurm's nodes, partitions and jobs as a `ClusterView`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from nexa.errors import NexaError
from nexa.scheduler import ClusterView, JobState, NodeResources, Partition, QueuedJob
from nexa_slurm.arrays import run_of
from nexa_slurm.commands import run_slurm
from nexa_slurm.login import LoginNode
from nexa_slurm.queue import JobQueue, QueuedEntry, Snapshot, limit_seconds, pending_reason
from nexa_slurm.states import job_state

_GPUS = re.compile(r"\bgpu(?::([A-Za-z][\w.-]*))?:(\d+)")
# scontrol separates some fields with two spaces.
_FIELD = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|$)")
_IDLE = frozenset({"idle", "idle~", "idle+cloud"})


def cluster_view(queue: JobQueue, snapshot: Snapshot) -> ClusterView:
    """Nodes and partitions through `queue`, and the jobs that `snapshot` has; never raises."""
    moment = time.time()
    jobs = [_job(entry) for entry in snapshot.entries.values() if job_state(entry.state)[0] is not JobState.ENDED]
    try:
        answer = queue.machines(lambda: _ask(queue.at))
    except NexaError as error:
        return ClusterView(taken_at=moment, jobs=jobs, problem=error.message)
    nodes, partitions = _records(answer["nodes"]), _records(answer["partitions"])
    machines = [_node(record) for record in nodes]
    return ClusterView(
        taken_at=moment,
        nodes=machines,
        partitions=[_partition(record, machines) for record in partitions],
        jobs=jobs,
        problem=snapshot.problem,
    )


def _ask(at: LoginNode | None) -> dict[str, str]:
    return {
        "nodes": run_slurm(["scontrol", "--details", "show", "node", "--oneliner"], at=at),
        "partitions": run_slurm(["scontrol", "show", "partition", "--oneliner"], at=at),
    }


def _records(text: str) -> Sequence[Mapping[str, str]]:
    """The fields of each line of `scontrol show … --oneliner`; values may hold spaces."""
    return [dict(_FIELD.findall(line.strip())) for line in text.splitlines() if "=" in line]


def _node(record: Mapping[str, str]) -> NodeResources:
    gpus, kind = _gpus(record.get("Gres", ""))
    used, _ = _gpus(record.get("GresUsed", "") or _used_gres(record.get("AllocTRES", "")))
    cpus, memory = _number(record.get("CPUTot")), _number(record.get("RealMemory"))
    allocated, taken = _number(record.get("CPUAlloc")) or 0, _number(record.get("AllocMem")) or 0
    return NodeResources(
        name=record.get("NodeName", "?"),
        partitions=tuple(name for name in record.get("Partitions", "").split(",") if name),
        state=record.get("State", "unknown").lower(),
        reason=record.get("Reason", ""),
        cpus=cpus,
        free_cpus=None if cpus is None else cpus - allocated,
        # scontrol counts in MiB.
        memory_bytes=None if memory is None else memory << 20,
        free_memory_bytes=None if memory is None else (memory - taken) << 20,
        gpus=gpus,
        free_gpus=gpus - used,
        gpu_type=kind,
    )


def _gpus(gres: str) -> tuple[int, str]:
    """Number and type of GPUs in a text such as gpu:a100:4(S:0-1)."""
    found = _GPUS.findall(gres)
    return sum(int(count) for _, count in found), next((kind for kind, _ in found if kind), "")


def _used_gres(tres: str) -> str:
    """The GPUs of a text such as cpu=1,mem=1G,gres/gpu=2 in the form of `Gres`."""
    count = re.search(r"gres/gpu=(\d+)", tres)
    return f"gpu:{count.group(1)}" if count else ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _partition(record: Mapping[str, str], nodes: Sequence[NodeResources]) -> Partition:
    name = record.get("PartitionName", "?")
    members = [node for node in nodes if name in node.partitions]
    return Partition(
        name=name,
        state=record.get("State", "unknown").lower(),
        is_default=record.get("Default") == "YES",
        max_seconds=limit_seconds(record.get("MaxTime", "")),
        nodes=len(members),
        idle_nodes=sum(node.state in _IDLE for node in members),
    )


def _job(entry: QueuedEntry) -> QueuedJob:
    state, words = job_state(entry.state)
    waits = state is JobState.PENDING
    return QueuedJob(
        job_id=entry.job_id,
        name=entry.name,
        state=state,
        reason=pending_reason(entry) if waits else words,
        partition=entry.partition,
        num_nodes=entry.num_nodes,
        nodes=(entry.nodes,) if entry.nodes else (),
        submitted_at=entry.submitted_at,
        started_at=None if waits else entry.started_at,
        expected_start=entry.started_at if waits else None,
        limit_seconds=entry.limit_seconds,
        run_id=run_of(entry),
    )
