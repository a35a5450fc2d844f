"""What to type when Slurm refuses a job."""

from __future__ import annotations

import re

from nexa.errors import NexaError, UserError
from nexa_slurm.commands import MissingSlurmError, SlurmError, run_slurm
from nexa_slurm.login import LoginNode

# Slurm's words (src/common/slurm_errno.c) and what helps; {…} is filled in by asking Slurm.
_HINTS: tuple[tuple[str, str], ...] = (
    (r"invalid partition|partition.* (does not exist|not available)", "set slurm.partition to one of: {partitions}"),
    (r"invalid account|account/partition", "set slurm.account to one of: {accounts}"),
    (r"invalid qos", "set slurm.qos to one that your account has: sacctmgr show assoc user=$USER format=qos"),
    (
        r"node count specification invalid|more nodes|PartitionNodeLimit|partition configuration",
        "lower cluster.num_nodes; partitions and their nodes: {nodes}",
    ),
    (
        r"job array",
        "give fewer runs, or sweep in parts; the longest array here: scontrol show config | grep MaxArraySize",
    ),
    (r"time limit", "lower cluster.time_limit; partitions and their limits: {limits}"),
    (r"memory", "lower cluster.memory_per_node; see: sinfo -o '%P %m'"),
    (r"gres|gpu", "lower cluster.gpus_per_node or change slurm.gres; see: sinfo -o '%P %G'"),
    (r"feature", "change slurm.constraint; see: sinfo -o '%P %f'"),
    (
        r"requested node configuration is not available|cpu count|more processors",
        "lower cluster.num_nodes, gpus_per_node, cpus_per_node or memory_per_node; see: sinfo -N -l",
    ),
    (r"reservation", "change slurm.reservation; see: scontrol show reservation"),
    (
        r"job violates accounting/qos policy|limit",
        "a limit of your account or quality of service is reached; see: squeue --me",
    ),
    (r"unrecognized option|unknown option|invalid option|argument", "change slurm.options; see: man sbatch"),
)
_QUESTIONS = {
    "partitions": ["sinfo", "--noheader", "--format=%R"],
    "nodes": ["sinfo", "--noheader", "--format=%R: %D"],
    "limits": ["sinfo", "--noheader", "--format=%R: %l"],
    "accounts": ["sacctmgr", "--noheader", "--parsable2", "show", "assoc", "format=account"],
}


def refusal(error: SlurmError, at: LoginNode | None = None) -> NexaError:
    """The error that tells a user what Slurm said at a login node and what to type."""
    if isinstance(error, MissingSlurmError):
        return error
    for pattern, hint in _HINTS:
        if re.search(pattern, error.words, re.IGNORECASE):
            return UserError(f"Slurm refused the job: {error.words}", hint=_filled(hint, at))
    return UserError(f"Slurm refused the job: {error.words}", hint="see the command: nexa launch … --explain")


def _filled(hint: str, at: LoginNode | None) -> str:
    """The hint with what Slurm answers to its question."""
    name = re.search(r"\{(\w+)\}", hint)
    if name is None:
        return hint
    question = _QUESTIONS[name.group(1)]
    try:
        answers = sorted(
            {line.strip() for line in run_slurm(question, at=at, timeout=5.0).splitlines() if line.strip()}
        )
    except NexaError:
        answers = []
    return hint.replace(name.group(0), ", ".join(answers) or f"see {question[0]}")
