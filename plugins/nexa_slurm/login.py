"""Slurm's commands on a login node, through SSH. Standard library only.

Host keys are checked against those this machine knows, always, and nothing is asked at the terminal: an
unknown or changed key, and a log-in that takes a password, are errors that say what to do.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.errors import NexaError, UserError, WorkerError
from nexa.text import sanitize_line
from nexa.worker.place import read_plan

CONNECT_SECONDS = 10
_FAILED = 255
_ABSENT = 127
_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    f"ConnectTimeout={CONNECT_SECONDS}",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
)
# What ssh says when it has not come as far as the command, and what helps.
_REFUSALS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key .* has changed",
        "the host key of {host} is not the one this machine knows: another machine answers, or it was set up anew",
        "ask the cluster's administrators for its fingerprint; only if it changed: ssh-keygen -R {host}, then: {ssh}",
    ),
    (
        r"Host key verification failed|key is known for",
        "this machine does not know the host key of {host}, and must not trust just any",
        "log in once by hand and compare the fingerprint with the cluster's documentation: {ssh}",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "{host} does not let this user in without a password",
        "log in with a key (ssh-copy-id {host}) that is unlocked (ssh-add), or set slurm.host=user@host; try: {ssh}",
    ),
    (
        r"Could not resolve hostname",
        "there is no host {host}",
        "set slurm.host to a login node of the cluster, or to a Host of ~/.ssh/config",
    ),
    (
        r"Can't open user config file|Bad configuration option|Bad owner or permissions|Unsupported option",
        "ssh can't read its configuration",
        "see what it says: {ssh}",
    ),
)
_UNREACHED = re.compile(r"^(ssh: )?(connect to host|Connection (timed out|refused)|kex_exchange)", re.MULTILINE)


class LoginNodeError(UserError):
    """A login node that can't be used as it is; what was asked of it has not happened."""


class UnreachableError(NexaError):
    """A login node that does not answer now; what was asked of it has not happened."""


class DroppedError(NexaError):
    """A connection that ended early; what was asked may or may not have happened."""


@dataclass(frozen=True, kw_only=True)
class LoginNode:
    """A machine that Slurm's commands run on; host as ssh takes it. ssh_config: file in place of ssh's own."""

    host: str
    ssh_config: str | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LoginNode | None:
        """The login node in a section `slurm`, or in a job's details; None where this machine is one."""
        host = document.get("host")
        return cls(host=str(host), ssh_config=document.get("ssh_config")) if host else None

    @classmethod
    def of_attempt(cls, run_dir: Path, number: int) -> LoginNode | None:
        """The login node that an attempt's job is handed over at."""
        try:
            return cls.from_document(read_plan(run_dir, number)["recipe"].get("slurm") or {})
        except WorkerError:
            return None

    def document(self) -> dict[str, str]:
        """What `from_document` reads."""
        return {"host": self.host, **({"ssh_config": self.ssh_config} if self.ssh_config else {})}

    def argv(self, words: Sequence[str], **variables: str) -> list[str]:
        """The ssh command that runs `words` there, each of them one argument whatever it holds."""
        changed = ["env", *(f"{name}={value}" for name, value in variables.items())] if variables else []
        own = ["-F", self.ssh_config] if self.ssh_config else []
        options = [word for option in _OPTIONS for word in ("-o", option)]
        return ["ssh", "-T", *own, *options, "--", self.host, shlex.join([*changed, *words])]

    def run(self, command: Sequence[str], *, timeout: float, data: bytes | None = None) -> tuple[int, str, str]:
        """Run a command that `argv` made; return its exit code and what it printed on both streams.

        data: its standard input. Raises LoginNodeError, UnreachableError and DroppedError.
        """
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
        try:
            answer = subprocess.run(
                list(command), **given, capture_output=True, timeout=timeout + CONNECT_SECONDS, check=False
            )
        except FileNotFoundError:
            raise LoginNodeError(
                "there is no ssh on this machine", hint="install OpenSSH's client, or use a login node directly"
            ) from None
        except subprocess.TimeoutExpired:
            raise DroppedError(f"{self.host}: no answer in {timeout + CONNECT_SECONDS:g} s") from None
        out, err = answer.stdout.decode("utf-8", "replace"), answer.stderr.decode("utf-8", "replace")
        if answer.returncode == _FAILED:
            raise self._failure(err)
        if answer.returncode == _ABSENT:
            words = _line(err)
            raise LoginNodeError(
                f"{self.host}: {words or 'there is no such command'}",
                hint="slurm.host must be a login node of the cluster whose PATH has Slurm's commands also without a "
                "terminal: " + shlex.join(["ssh", self.host, "command -v sbatch"]),
            )
        return answer.returncode, out, err

    def _failure(self, words: str) -> NexaError:
        """What ssh's own words about a connection mean."""
        own = ["-F", self.ssh_config] if self.ssh_config else []
        told = {"host": self.host, "ssh": shlex.join(["ssh", *own, self.host])}
        for pattern, message, hint in _REFUSALS:
            if re.search(pattern, words):
                return LoginNodeError(f"{message.format(**told)}: {_line(words)}", hint=hint.format(**told))
        kind = UnreachableError if _UNREACHED.search(words) else DroppedError
        return kind(f"{self.host} can't be reached: {_line(words) or 'the connection ended'}")


def _line(words: str) -> str:
    """The last line that ssh printed: its verdict, after banners and warnings."""
    lines = [sanitize_line(line.strip()) for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else ""
