"""Which process is meant: a pid alone is reused, so a process is named by pid, start time and boot.

Standard library only.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nexa.compat import StrEnum


class Liveness(StrEnum):
    """Whether a process still exists. ELSEWHERE: it belongs to another machine or container."""

    ALIVE = "alive"
    GONE = "gone"
    REBOOTED = "rebooted"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, for good.

    start_time: clock ticks since boot on Linux, the start date as text elsewhere; None if unknown.
    boot_id: changes with every boot. namespace: the Linux pid namespace, which containers do not share.
    """

    pid: int
    start_time: str | None
    boot_id: str
    host: str
    namespace: str

    def document(self) -> dict[str, Any]:
        """The identity as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ProcessIdentity | None:
        """Read what `document` wrote; None when a field is missing."""
        try:
            return cls(
                pid=int(document["pid"]),
                start_time=document["start_time"],
                boot_id=document["boot_id"],
                host=document["host"],
                namespace=document["namespace"],
            )
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a process on this machine."""
        return cls(
            pid=pid,
            start_time=process_start_time(pid),
            boot_id=boot_id(),
            host=socket.gethostname(),
            namespace=pid_namespace(),
        )

    @classmethod
    def current(cls) -> ProcessIdentity:
        """The identity of the calling process."""
        return cls.of(os.getpid())

    def liveness(self) -> Liveness:
        """Whether this process still exists, as far as this machine can tell."""
        if self.host != socket.gethostname():
            return Liveness.ELSEWHERE
        if self.boot_id != boot_id():
            return Liveness.REBOOTED
        if self.namespace != pid_namespace():
            return Liveness.ELSEWHERE
        started = process_start_time(self.pid)
        if started is None or (self.start_time is not None and started != self.start_time):
            return Liveness.GONE
        return Liveness.ALIVE


def process_start_time(pid: int) -> str | None:
    """When a process of this machine started; None when it does not exist or is a zombie."""
    if sys.platform.startswith("linux"):
        fields = stat_fields(pid)
        return fields[19] if fields and fields[0] not in {"Z", "X"} else None
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (index 0 state, 1 parent, 19 start); None when gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    # The command name in parentheses may itself hold spaces and parentheses.
    return text[text.rfind(")") + 2 :].split()


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Changes with every boot of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        pass
    try:
        answer = subprocess.run(["sysctl", "-n", "kern.boottime"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip()


def uptime_seconds() -> float | None:
    """Seconds since this machine booted; None where the system does not tell."""
    try:
        return float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


@lru_cache(maxsize=1)
def pid_namespace() -> str:
    """The pid namespace of this process; empty where there is none."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - Path.readlink rejects "pid:[…]" on some versions
    except OSError:
        return ""
