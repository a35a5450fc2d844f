"""Slurm's job states and reasons in plain English."""

from __future__ import annotations

import re

from nexa.scheduler import JobState

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
_STATES: dict[str, tuple[JobState, str]] = {
    "PENDING": (JobState.PENDING, ""),
    "CONFIGURING": (JobState.PENDING, "its nodes are being made ready"),
    "REQUEUED": (JobState.PENDING, "it was put back into the queue"),
    "REQUEUE_FED": (JobState.PENDING, "it was put back into the queue of another cluster"),
    "REQUEUE_HOLD": (JobState.PENDING, "it was put back into the queue and is held"),
    "SPECIAL_EXIT": (JobState.PENDING, "it was put back into the queue with a special state and is held"),
    "RESV_DEL_HOLD": (JobState.PENDING, "it is held, because its reservation was deleted"),
    "RUNNING": (JobState.RUNNING, ""),
    "COMPLETING": (JobState.RUNNING, "Slurm is cleaning up after it"),
    "SIGNALING": (JobState.RUNNING, "it is being sent a signal"),
    "STAGE_OUT": (JobState.RUNNING, "its files are being copied"),
    "RESIZING": (JobState.RUNNING, "its size is being changed"),
    "SUSPENDED": (JobState.RUNNING, "it is suspended: another job has its nodes for now"),
    "STOPPED": (JobState.RUNNING, "it was stopped by a signal"),
    "POWER_UP_NODE": (JobState.PENDING, "its nodes are being powered up"),
    "COMPLETED": (JobState.ENDED, "its job ended in order"),
    "CANCELLED": (JobState.ENDED, "its job was cancelled"),
    "PREEMPTED": (JobState.ENDED, "its job had to make room for one of a higher priority"),
    "REVOKED": (JobState.ENDED, "another cluster started it"),
    "TIMEOUT": (
        JobState.ENDED,
        "its job reached its time limit before it had saved a checkpoint and stopped: a step and its checkpoint take "
        "longer than cluster.stop_lead_seconds; raise that, and cluster.time_limit with it",
    ),
    "DEADLINE": (JobState.ENDED, "its job reached its deadline"),
    "FAILED": (JobState.ENDED, "its job failed"),
    "NODE_FAIL": (JobState.ENDED, "a node of its job failed"),
    "BOOT_FAIL": (JobState.ENDED, "its job could not be started, because a node did not boot"),
    "LAUNCH_FAILED": (JobState.ENDED, "Slurm could not start its job"),
    "RECONFIG_FAIL": (JobState.ENDED, "its nodes could not be reconfigured"),
    "OUT_OF_MEMORY": (JobState.ENDED, "its job ran out of memory; raise cluster.memory_per_node"),
}
_FAILURES = frozenset(
    {"FAILED", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE"}
)

# https://slurm.schedmd.com/job_reason_codes.html
_REASONS: dict[str, str] = {
    "None": "Slurm has not looked at it yet",
    "Priority": "jobs of a higher priority are before it",
    "Resources": "it waits for nodes to become free",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "it waits for a job that can never end as it should; cancel it: nexa kill",
    "BeginTime": "its earliest start has not come yet; after a requeue Slurm waits some minutes",
    "JobHeldUser": "it is held by its user; release it: nexa requeue",
    "JobHeldAdmin": "it is held by Slurm or its administrators, often after several failed starts; see: nexa logs, "
    "then release it (nexa requeue) or ask them",
    "JobHoldMaxRequeue": "it is held, because it was put back into the queue too often; release it: nexa requeue",
    "job requeued in held state": "it was put back into the queue and is held; release it: nexa requeue",
    "launch failed requeued held": "it could not be started and is held; see: nexa logs, then release it: nexa requeue",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is switched off",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows; lower cluster.num_nodes",
    "PartitionTimeLimit": "its time limit is longer than its partition allows; lower cluster.time_limit",
    "PartitionConfig": "its partition does not allow what it asks for",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node has what it asks for; change slurm.constraint or the resources",
    "Licenses": "it waits for a licence",
    "Reservation": "it waits for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted; change slurm.reservation",
    "JobArrayTaskLimit": "as many tasks of its array run as may at once",
    "Cleaning": "Slurm is still cleaning up after its last start",
    "Prolog": "its nodes are being prepared",
    "InvalidAccount": "its account is invalid; change slurm.account",
    "InvalidQOS": "its quality of service is invalid; change slurm.qos",
    "AccountNotAllowed": "its account may not use its partition",
    "QOSNotAllowed": "its quality of service may not be used in its partition",
    "SystemFailure": "Slurm has a failure of its own; ask its administrators",
    "NonZeroExitCode": "it ended with an error",
    "RaisedSignal": "it ended by a signal",
    "OutOfMemory": "it ran out of memory; raise cluster.memory_per_node",
    "TimeLimit": "it reached its time limit",
    "NodeFail": "one of its nodes failed",
    "BurstBufferResources": "it waits for space in the burst buffer",
}
_LIMITS = re.compile(r"^(Assoc|QOS|MaxJobs|Max|Partition)\w*(Limit|PerUser|PerAccount|Accounts?|Minutes|Jobs)\w*$")
_OWNERS = {"Assoc": "its account's", "QOS": "its quality of service's", "Max": "the", "Partition": "its partition's"}

# Exit codes of batch.sh, and Slurm's own for a job that it could not start.
_EXIT_CODES = {
    "90:0": "there is no such Python on its node",
    "91:0": "a module of slurm.modules can't be loaded",
    "92:0": "a command of slurm.pre_commands failed",
    "93:0": "the run folder is not visible on its node",
    "0:53": "Slurm can't write to the run folder on its node: it is not visible or not writable there; "
    "set NEXA_RUNS_DIR to a folder that all nodes share",
}


def job_state(state: str) -> tuple[JobState, str]:
    """What a state of Slurm's means, and in words why; UNKNOWN for one this table does not have."""
    word = state.split()[0].rstrip("+") if state else ""
    return _STATES.get(word, (JobState.UNKNOWN, f"Slurm says {state}"))


def has_failed(state: str) -> bool:
    """Whether Slurm calls a job with this state a failure."""
    return bool(state) and state.split()[0].rstrip("+") in _FAILURES


def reason_in_words(reason: str) -> str:
    """Why a job waits or ended, from Slurm's word for it."""
    word = reason.strip("()")
    if word in _REASONS:
        return _REASONS[word]
    first = word.partition(",")[0]
    if first in _REASONS:
        return f"{_REASONS[first]} ({word})"
    limit = _LIMITS.match(word)
    if limit is not None:
        owner = _OWNERS.get(limit.group(1), "the")
        return f"{owner} limit is reached ({word}); it starts when other jobs have ended"
    return f"Slurm says: {word}"


def exit_code_in_words(code: str) -> str:
    """What Slurm's EXIT:SIGNAL of a job that failed says."""
    if code in _EXIT_CODES:
        return _EXIT_CODES[code]
    status, _, number = code.partition(":")
    return f"it was ended by signal {number}" if number not in ("", "0") else f"exit code {status}"
