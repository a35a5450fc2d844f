"""Which process of how many this is, from what torchrun, Slurm or MPI left in the environment. No torch.

The first source that says anything wins: torchrun, then Slurm, then MPI. A torchrun inside a Slurm
allocation is the usual case, and only torchrun knows the rank there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nexa.errors import UserError

_FIRST_PORT, _PORTS = 20000, 20000
_SCONTROL_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """Place of one process among all; 0 ≤ rank < world_size, local_rank counts on this machine.

    source: "torchrun", "slurm", "mpi" or "single". master_addr, master_port: where all meet; None for
    a single process, and where the launcher names no host.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    master_addr: str | None = None
    master_port: int | None = None
    source: str = "single"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"{self.source} says this is rank {self.rank} of {self.world_size} processes, which can't be",
                hint="ranks count from 0; unset the variables left by another launcher, or start with: nexa launch",
            )
        if not 0 <= self.local_rank < self.local_world_size:
            raise UserError(
                f"{self.source} says this is local rank {self.local_rank} of {self.local_world_size} processes "
                "on this machine, which can't be",
                hint="start with: nexa launch, or: torchrun --nproc-per-node=N",
            )


def detect_environment(environment: Mapping[str, str] | None = None) -> RankEnvironment:
    """Return the place of this process; a single one where no launcher left a word.

    Raises UserError where the launcher's variables are incomplete, are no numbers, or contradict
    one another.
    """
    variables = os.environ if environment is None else environment
    for source, mark, read in _SOURCES:
        if variables.get(mark):
            return read(_Reader(variables, source))
    return RankEnvironment()


@dataclass(frozen=True)
class _Reader:
    """Reads a launcher's variables, with errors that name launcher and variable."""

    variables: Mapping[str, str]
    source: str

    def text(self, *names: str) -> str | None:
        """The first of the variables that is set; None where none is."""
        return next((self.variables[name] for name in names if self.variables.get(name)), None)

    def optional(self, *names: str) -> int | None:
        """The first of the variables that is set, as an integer ≥ 0. Raises UserError."""
        for name in names:
            text = self.variables.get(name)
            if not text:
                continue
            if not text.isdigit():
                raise UserError(f"{name}={text!r}, set by {self.source}, is not a number", hint=f"unset {name}")
            return int(text)
        return None

    def number(self, *names: str) -> int:
        """As `optional`, and raises UserError where none is set."""
        value = self.optional(*names)
        if value is None:
            raise UserError(
                f"{self.source} started this process and {' or '.join(names)} is not set",
                hint="start with: nexa launch, or: torchrun --nproc-per-node=N; "
                "or unset the variables left by another launcher",
            )
        return value


def _from_torchrun(reader: _Reader) -> RankEnvironment:
    world_size = reader.number("WORLD_SIZE")
    address = reader.text("MASTER_ADDR")
    if world_size > 1 and address is None:
        raise UserError(
            f"RANK and WORLD_SIZE={world_size} are set and MASTER_ADDR is not, so the processes can't meet",
            hint="start with: torchrun --nproc-per-node=N, or set MASTER_ADDR and MASTER_PORT",
        )
    return RankEnvironment(
        rank=reader.number("RANK"),
        local_rank=reader.optional("LOCAL_RANK") or 0,
        world_size=world_size,
        local_world_size=reader.optional("LOCAL_WORLD_SIZE") or world_size,
        master_addr=address,
        master_port=reader.optional("MASTER_PORT"),
        source=reader.source,
    )


def _from_slurm(reader: _Reader) -> RankEnvironment:
    world_size = reader.number("SLURM_NTASKS", "SLURM_NPROCS")
    rank, local_rank = reader.number("SLURM_PROCID"), reader.optional("SLURM_LOCALID") or 0
    nodes = reader.text("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    if world_size > 1 and nodes is None and reader.text("MASTER_ADDR") is None:
        raise UserError(
            f"Slurm started {world_size} tasks and names no node list, so they can't meet",
            hint="set MASTER_ADDR to the first node's name",
        )
    tasks = reader.text("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    return RankEnvironment(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=_tasks_here(tasks, reader.optional("SLURM_NODEID") or 0) or world_size,
        master_addr=reader.text("MASTER_ADDR") or (first_host(nodes) if nodes else None),
        master_port=reader.optional("MASTER_PORT") or derived_port(reader.text("SLURM_JOB_ID", "SLURM_JOBID") or "0"),
        source=reader.source,
    )


def _from_mpi(reader: _Reader) -> RankEnvironment:
    world_size = reader.number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE")
    address = reader.text("MASTER_ADDR")
    local_size = reader.optional("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
    if address is None and world_size > 1 and local_size not in (None, world_size):
        raise UserError(
            f"MPI started {world_size} processes on several machines and MASTER_ADDR is not set, so they can't meet",
            hint="pass it on: mpirun -x MASTER_ADDR=$(hostname) …",
        )
    job = reader.text("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_ID") or "mpi"
    return RankEnvironment(
        rank=reader.number("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK"),
        local_rank=reader.optional("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK") or 0,
        world_size=world_size,
        local_world_size=local_size or world_size,
        # Without a word on machines all processes are taken to be on this one.
        master_addr=address or ("127.0.0.1" if world_size > 1 else None),
        master_port=reader.optional("MASTER_PORT") or derived_port(job),
        source=reader.source,
    )


_SOURCES: tuple[tuple[str, str, Callable[[_Reader], RankEnvironment]], ...] = (
    ("torchrun", "RANK", _from_torchrun),
    ("Slurm", "SLURM_PROCID", _from_slurm),
    ("MPI", "OMPI_COMM_WORLD_RANK", _from_mpi),
    ("MPI", "PMIX_RANK", _from_mpi),
    ("MPI", "PMI_RANK", _from_mpi),
    ("MPI", "MV2_COMM_WORLD_RANK", _from_mpi),
)
"""(name, variable that shows it started this process, reader), in the order they are asked."""


def derived_port(job: str) -> int:
    """A port that all processes of a job work out alike, 20000 to 39999, and other jobs rarely share."""
    return _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS


def first_host(node_list: str) -> str:
    """First host of a Slurm node list, by `scontrol` where it is installed, else by `expand_hosts`."""
    if scontrol := shutil.which("scontrol"):
        try:
            answer = subprocess.run(
                [scontrol, "show", "hostnames", node_list],
                capture_output=True,
                text=True,
                timeout=_SCONTROL_SECONDS,
                check=True,
            ).stdout.split()
        except (OSError, subprocess.SubprocessError):
            answer = []
        if answer:
            return answer[0]
    return expand_hosts(node_list)[0]


_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand_hosts(node_list: str) -> list[str]:
    """Hosts of a Slurm node list such as "gpu[01-03,7],login": gpu01, gpu02, gpu03, gpu7, login.

    Numbers keep their leading zeros; several brackets in one name multiply, the last varying fastest.
    Raises UserError for a list that is none.
    """
    hosts = [host for part in _split_outside_brackets(node_list) for host in _expand(part, node_list)]
    if not hosts:
        raise UserError(f"the node list {node_list!r} names no host")
    return hosts


def _expand(part: str, whole: str) -> list[str]:
    opening = part.find("[")
    if opening < 0:
        if "]" in part:
            raise UserError(f"the node list {whole!r} has a bracket without its pair")
        return [part] if part else []
    closing = part.find("]", opening)
    if closing < 0:
        raise UserError(f"the node list {whole!r} has a bracket without its pair")
    rests = _expand(part[closing + 1 :], whole) or [""]
    return [part[:opening] + text + rest for text in _numbers(part[opening + 1 : closing], whole) for rest in rests]


def _numbers(ranges: str, whole: str) -> list[str]:
    texts: list[str] = []
    for item in ranges.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise UserError(f"{item!r} in the node list {whole!r} is neither a number nor a range")
        first, last = match.group(1), match.group(2) or match.group(1)
        texts += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return texts


def _split_outside_brackets(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text)]


def _tasks_here(text: str | None, node: int) -> int | None:
    """Tasks on node number `node` by Slurm's form "4(x2),3"; None where it is not given."""
    counts: list[int] = []
    for item in (text or "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if match is None:
            return None
        counts += [int(match.group(1))] * int(match.group(2) or 1)
    return counts[node] if node < len(counts) else None
