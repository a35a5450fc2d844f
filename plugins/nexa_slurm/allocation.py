"""The job this process runs in, from Slurm's variables: nodes, restarts, and where its nodes meet."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nexa.errors import NexaError, UserError
from nexa_slurm.commands import SlurmError, run_slurm

_FIRST_PORT = 20000
_PORTS = 20000
_TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One job, as it is on its first node.

    job_id: of an array's task in the form ARRAY_TASK, so that commands about it touch no other task.
    number: Slurm's own number of the job or task. restarts: times it was put back into the queue.
    """

    job_id: str
    number: int
    restarts: int
    node_list: str
    num_nodes: int
    task: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Allocation:
        """Read the variables that Slurm sets in a batch script. Raises UserError outside of one."""
        try:
            number = int(environment["SLURM_JOB_ID"])
            num_nodes = int(environment["SLURM_JOB_NUM_NODES"])
        except (KeyError, ValueError):
            raise UserError("this is no Slurm job", hint="start runs with: nexa launch --scheduler slurm") from None
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        return cls(
            job_id=f"{array}_{task}" if array and task else str(number),
            number=number,
            restarts=int(environment.get("SLURM_RESTART_COUNT") or 0),
            node_list=environment.get("SLURM_JOB_NODELIST", ""),
            num_nodes=num_nodes,
            task=int(task) if task else None,
        )

    def nodes(self) -> Sequence[str]:
        """Names of the nodes, the first first. Raises NexaError."""
        return run_slurm(["scontrol", "show", "hostnames", self.node_list]).split()

    def rendezvous(self) -> str:
        """HOST:PORT on the first node, where this runs: derived from the job, and free now. Raises NexaError."""
        return f"{_address(self.nodes()[0])}:{_free_port(self.number)}"


def _address(node: str) -> str:
    """What the other nodes call this one: its name, or its address where the name means nothing."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        pass
    else:
        return node
    try:
        found = re.search(r"\bNodeAddr=(\S+)", run_slurm(["scontrol", "show", "node", "--oneliner", node]))
    except SlurmError:
        found = None
    return found.group(1) if found else node


def _free_port(number: int) -> int:
    """A port that depends on the job, so that two jobs on a node seldom ask for the same, and is free."""
    for attempt in range(_TRIES):
        port = _FIRST_PORT + (number * 13 + attempt) % _PORTS
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise NexaError(f"no port of {_TRIES} tried is free on {socket.gethostname()}")
