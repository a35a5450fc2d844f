"""Job arrays: several runs as one job, of which each task is one run's attempt.

The array's folder holds `members.json`, a list of [run folder, attempt] from which each task takes its
own, and for each task a link to its run's log, since Slurm knows one name for all logs of an array.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import NexaError, UserError
from nexa.files import read_json
from nexa.runs.store import SWEEPS_FOLDER, AttemptFolder
from nexa_slurm.members import member_of
from nexa_slurm.queue import QueuedEntry
from nexa_slurm.submission import batch_argv, options_of, request_argv, run_id_of, submission_of

if TYPE_CHECKING:
    from nexa.scheduler import ArrayMember, Attempt, JobArray, Submission

_MARK = "nexa-array:"


def token_of_array(folder: Path) -> str:
    """What marks the job of an array in its comment."""
    return f"{_MARK}{folder}"


def plan_array(array: JobArray) -> Submission:
    """The sbatch command for an array and why it looks so. Raises UserError where its members can't be one job."""
    first = array.members[0]
    own = _request(first)
    for number, member in enumerate(array.members, start=1):
        other = _request(member)
        if other != own:
            differing = " and ".join(
                " ".join(word for word in one if word not in another) or "(nothing)"
                for one, another in ((own, other), (other, own))
            )
            raise UserError(
                f"runs 1 and {number} ask Slurm for different things: {differing}",
                hint="the tasks of an array are alike; sweep over cluster.* and slurm.* in sweeps of their own",
            )
    folder = str(array.folder)
    at_once = f"%{array.max_concurrent}" if array.max_concurrent else ""
    argv = [
        "sbatch",
        "--parsable",
        f"--job-name={array.name}",
        f"--comment={token_of_array(array.folder)}",
        f"--array=0-{len(array.members) - 1}{at_once}",
        *request_argv(first.recipe, first.resources),
        f"--output={folder.replace('%', '%%')}/%a.log",
        "--open-mode=append",
        "--export=ALL",
        f"--chdir={folder}",
        *batch_argv(first.recipe, first.launch, _members_path(array.folder), 1),
    ]
    single = submission_of(first.recipe, first.launch, first.resources, argv)
    notes = ["each task of the array is one run; stopping a run touches its task alone", *single.notes]
    return replace(single, notes=notes)


def _request(member: ArrayMember) -> list[str]:
    """What a member asks of Slurm, and where."""
    options = options_of(member.recipe)
    place = [f"slurm.{name}={getattr(options, name)}" for name in ("host", "ssh_config", "code_folder", "python")]
    return [*place, *request_argv(member.recipe, member.resources)]


def write_members(array: JobArray) -> None:
    """Write what the array's tasks read. Raises UserError where Slurm could not use it."""
    from nexa.supervisor import supervisor_log

    if any(ord(character) < 32 for character in str(array.folder)):
        raise UserError(
            f"Slurm can't name logs below {str(array.folder)!r}: there is a control character in it",
            hint="set NEXA_RUNS_DIR to another folder",
        )
    members = [[str(member.attempt.run_dir), member.attempt.number] for member in array.members]
    try:
        for task, member in enumerate(array.members):
            log = supervisor_log(member.attempt.run_dir, member.attempt.number)
            (array.folder / f"{task}.log").symlink_to(os.path.relpath(log, array.folder))
        _members_path(array.folder).write_text(json.dumps(members), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{array.folder} can't be written: {error.strerror or error}") from error


def task_of(attempt: Attempt) -> tuple[str, int] | None:
    """Comment and task number of the array that an attempt was left to; None for an attempt of its own job."""
    folder = AttemptFolder(attempt.run_dir, attempt.number)
    queued = read_json(folder.path / "queued.json") or {}
    if "array" not in queued:
        return None
    array = attempt.run_dir.parent / SWEEPS_FOLDER / str(queued["sweep"]) / "arrays" / str(queued["array"])
    return token_of_array(array), int(queued["task"])


def run_of(entry: QueuedEntry) -> str | None:
    """Run that a job in the queue belongs to; None for a job of another kind."""
    if not entry.comment.startswith(_MARK):
        return run_id_of(entry.comment)
    task = entry.job_id.rpartition("_")[2]
    try:
        return member_of(_members_path(Path(entry.comment.removeprefix(_MARK))), int(task))[0].name
    except (NexaError, ValueError):
        return None


def _members_path(folder: Path) -> Path:
    return folder / "members.json"
