"""The srun command that starts one task a node, and what each task becomes. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexa.uris import local_folder
from nexa.worker.command import worker_argv
from nexa.worker.place import WorkerPlace
from nexa_slurm.allocation import Allocation

CURRENT = "current"
"""The kind of environment that is the launching machine's own."""


def srun_argv(plan: Mapping[str, Any], place: WorkerPlace, allocation: Allocation) -> list[str]:
    """Return the command that starts `nexa_slurm.node` once on every node of the job. Raises NexaError."""
    cluster, options = plan["recipe"]["cluster"], _options(plan)
    nodes = allocation.num_nodes
    argv = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        "--input=none",
        "--unbuffered",
        "--mpi=none",
        "--export=ALL",
    ]
    if cluster["cpus_per_node"] or cluster["threads_per_process"]:
        # srun does not take sbatch's --cpus-per-task over.
        processes = int(plan["resources"]["processes_per_node"])
        argv.append(f"--cpus-per-task={cluster['cpus_per_node'] or cluster['threads_per_process'] * processes}")
    python = options.get("python") or sys.executable
    container = options.get("container")
    if container is not None and container["runtime"] == "pyxis":
        mounts = ",".join(f"{mount}:{mount}" if ":" not in mount else mount for mount in mounts_of(plan, place))
        argv += [f"--container-image={container['image']}", f"--container-mounts={mounts}"]
        python = container["python"]
    rendezvous = allocation.rendezvous() if nodes > 1 else "-"
    return [*argv, python, "-m", "nexa_slurm.node", str(place.run_dir), str(place.attempt), rendezvous]


def node_argv(plan: Mapping[str, Any], place: WorkerPlace, *, node: int, num_nodes: int, rendezvous: str) -> list[str]:
    """Return the command that one node's task becomes: its workers, before they are put into a container."""
    launch = launch_of(plan)
    if launch.get("environment", {}).get("kind", CURRENT) == CURRENT:
        # An environment or container that the recipe names brings its own.
        launch["python"] = _options(plan).get("python") or launch["python"]
    container = _options(plan).get("container")
    if container is not None:
        launch["python"] = container["python"]
    # Every node knows its part, so that no name look-up decides who holds the meeting point.
    elastic = (
        [f"--rdzv-conf=is_host={str(node == 0).lower()}", *_own_address(rendezvous, node)] if num_nodes > 1 else []
    )
    argv = worker_argv(
        launch,
        place.run_dir,
        place.attempt,
        num_nodes=num_nodes,
        rendezvous=rendezvous if num_nodes > 1 else None,
        elastic_options=elastic,
    )
    if container is None or container["runtime"] != "apptainer":
        return argv
    gpus = ["--nv"] if plan["resources"]["gpus_per_node"] else []
    binds = [word for mount in mounts_of(plan, place) for word in ("--bind", mount)]
    return ["apptainer", "exec", *gpus, *binds, *container["options"], container["image"], *argv]


def mounts_of(plan: Mapping[str, Any], place: WorkerPlace) -> Sequence[str]:
    """Folders that a container must see: the run's, a local store's, and those of the recipe."""
    store = local_folder(plan["store"]["uri"])
    own = [str(place.run_dir), *([str(store)] if store is not None else [])]
    return [*own, *(_options(plan).get("container") or {}).get("mounts", [])]


def launch_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's launch with the variables of the recipe's section `slurm`."""
    launch = plan["launch"]
    return {**launch, "env": {**launch.get("env", {}), **_options(plan).get("environment", {})}}


def local_path(folder: Path, node: int) -> Path:
    """Where a node reports that it can write to the run folder."""
    return folder / "nodes" / f"{node}.json"


def _own_address(rendezvous: str, node: int) -> list[str]:
    """The first node is known to the others by the name they meet at."""
    return [f"--local-addr={rendezvous.rpartition(':')[0]}"] if node == 0 else []


def _options(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    options: Mapping[str, Any] = plan["recipe"].get("slurm") or {}
    return options
