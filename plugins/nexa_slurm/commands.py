"""Runs Slurm's commands, with a time limit, and quotes their own words when they fail. Standard library only."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from nexa.errors import NexaError, UserError
from nexa.text import sanitize_line
from nexa_slurm.login import DroppedError, LoginNode

TIMEOUT_SECONDS = 20.0
# Left by a job that the command itself runs in; they would shape the new job.
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER")
_DROPPED = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_TEST_ONLY")
_UNREACHABLE = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|Zero Bytes were transmitted"
    r"|Slurm backup controller in standby|Transport endpoint|Communication connection failure|Unable to establish",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(\w+: )?(error|fatal): ", re.MULTILINE)


class SlurmError(NexaError):
    """A command of Slurm failed; `words` are its own."""

    def __init__(self, command: str, words: str, *, hint: str | None = None) -> None:
        super().__init__(f"{command}: {words}", hint=hint)
        self.command = command
        self.words = words


class ControllerError(SlurmError):
    """Slurm's controller did not answer; what was asked may or may not have happened."""


class MissingSlurmError(UserError):
    """This machine has no Slurm."""


def run_slurm(
    argv: Sequence[str], *, at: LoginNode | None = None, timeout: float = TIMEOUT_SECONDS, **variables: str
) -> str:
    """Run one command and return what it printed.

    at: where to run it, None for this machine. Raises SlurmError with its words, ControllerError where the
    controller did not answer in `timeout` seconds or at all, MissingSlurmError where there is no such
    command, and LoginNodeError or UnreachableError where the login node did not take it.
    """
    if at is not None:
        return run_at(at, at.argv(argv, **variables), argv[0], timeout=timeout)
    try:
        answer = subprocess.run(
            list(argv),
            env={**outside_environment(os.environ), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise MissingSlurmError(
            f"there is no {argv[0]} on this machine",
            hint="run the command on a login node of the cluster, or put Slurm's commands on PATH",
        ) from None
    except subprocess.TimeoutExpired:
        raise ControllerError(argv[0], f"no answer in {timeout:g} s") from None
    except OSError as error:
        raise SlurmError(argv[0], error.strerror or str(error)) from error
    return _answer(argv[0], answer.returncode, answer.stdout, answer.stderr)


def run_at(
    at: LoginNode, command: Sequence[str], name: str, *, timeout: float = TIMEOUT_SECONDS, data: bytes | None = None
) -> str:
    """Run what `LoginNode.argv` made of the command `name`; raises as `run_slurm` does."""
    try:
        return _answer(name, *at.run(command, timeout=timeout, data=data))
    except DroppedError as error:
        raise ControllerError(name, error.message) from error


def _answer(name: str, code: int, out: str, err: str) -> str:
    """What a command printed. Raises SlurmError and ControllerError where it failed."""
    if code == 0:
        return out
    words = _PREFIX.sub("", err.strip() or out.strip()) or f"exit code {code}"
    words = "; ".join(sanitize_line(line.strip()) for line in words.splitlines() if line.strip())
    raise (ControllerError if _UNREACHABLE.search(words) else SlurmError)(name, words)


def outside_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a surrounding Slurm job left in it."""
    return {name: value for name, value in environment.items() if name in _KEPT or not name.startswith(_DROPPED)}


def show_job(job_id: str, at: LoginNode | None = None) -> tuple[str, Mapping[str, str]]:
    """State and fields that scontrol gives of a job; "" where Slurm no longer knows it. Raises as `run_slurm` does."""
    try:
        text = run_slurm(["scontrol", "show", "job", "--oneliner", job_id], at=at)
    except ControllerError:
        raise
    except SlurmError as error:
        # A task that was cancelled before it began leaves no trace, and scontrol has other words for it.
        if "Invalid job id" in error.words or "not found" in error.words:
            return "", {}
        raise
    fields = dict(word.partition("=")[::2] for word in text.splitlines()[0].split(" ") if "=" in word)
    return fields.get("JobState", ""), fields
