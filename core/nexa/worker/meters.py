"""Meters of a worker: processor, memory and GPU, written as `system` events. Standard library only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nexa.errors import NexaError
from nexa.events.writer import EventWriter
from nexa.worker.environment import memory_bytes
from nexa.worker.identity import stat_fields
from nexa.worker.nvml import Gpu, gpu_of_rank

METER_SECONDS = 10.0
_FIRST_SECONDS = 2.0
_JOIN_SECONDS = 2.0
# Fields of /proc/PID/stat counted from the state: time in user mode and in the kernel, in ticks.
_UTIME, _STIME = 11, 12


class Meters(threading.Thread):
    """Writes a `system` event after two seconds, then every `seconds`, whatever the training loop is doing.

    gpu: the GPU to read, None without one. on_failure: called once when events can't be written.
    """

    def __init__(
        self,
        events: EventWriter,
        on_failure: Callable[[Exception], None],
        *,
        gpu: Gpu | None,
        seconds: float = METER_SECONDS,
        first_seconds: float = _FIRST_SECONDS,
    ) -> None:
        super().__init__(name="meters", daemon=True)
        self._events = events
        self._on_failure = on_failure
        self._gpu = gpu
        self._seconds = seconds
        self._first_seconds = first_seconds
        self._ended = threading.Event()
        self._usage = Usage()

    def run(self) -> None:
        """Measure until `finish`."""
        wait = self._first_seconds
        while not self._ended.wait(wait):
            wait = self._seconds
            try:
                self._events.write("system", **self._usage.read(), gpus=[self._gpu.read()] if self._gpu else [])
            except NexaError as error:
                self._on_failure(error)
                return

    def finish(self) -> None:
        """Stop measuring; a driver that hangs is abandoned."""
        self._ended.set()
        self.join(_JOIN_SECONDS)


class Usage:
    """Use of processor and memory by this process and its children since the last reading."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._seconds = _cpu_seconds(_family())
        self._machine = _machine_ticks()

    def read(self) -> dict[str, Any]:
        """Values since the last reading, None where the system does not tell.

        cpu_percent: of one core, so that two busy cores are 200. rss_bytes: memory held by the processes;
        what they share counts for each. machine_cpu_percent: of all cores of the machine, by everyone.
        machine_memory_bytes: in use by everyone, of machine_memory_total_bytes.
        """
        family = _family()
        now, seconds, machine = time.monotonic(), _cpu_seconds(family), _machine_ticks()
        elapsed = now - self._at
        # A child that has ended takes its seconds with it.
        used = max(0.0, seconds - self._seconds) if seconds is not None and self._seconds is not None else None
        busy = None
        if machine is not None and self._machine is not None and machine[1] > self._machine[1]:
            busy = 100.0 * (machine[0] - self._machine[0]) / (machine[1] - self._machine[1])
        self._at, self._seconds, self._machine = now, seconds, machine
        total, available = memory_bytes(), available_memory()
        return {
            "cpu_percent": round(100.0 * used / elapsed, 1) if used is not None and elapsed > 0 else None,
            "rss_bytes": _resident_bytes(family),
            "machine_cpu_percent": None if busy is None else round(busy, 1),
            "machine_memory_bytes": total - available if total is not None and available is not None else None,
            "machine_memory_total_bytes": total,
        }


def own_gpu(local_rank: int, environment: Mapping[str, str]) -> Gpu | None:
    """The GPU of a worker of this local rank; None without a driver or a GPU."""
    identifier = gpu_of_rank(local_rank, environment)
    try:
        return Gpu(identifier) if identifier is not None else None
    except OSError:
        return None


def _family() -> list[int]:
    """This process and its descendants, such as processes that load data."""
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in path.read_bytes().split()]
            except OSError:
                continue
    return found


def _cpu_seconds(pids: list[int]) -> float | None:
    if not hasattr(os, "sysconf") or not Path("/proc/self/stat").exists():
        return time.process_time()
    ticks = 0
    for pid in pids:
        fields = stat_fields(pid)
        if fields is not None:
            ticks += int(fields[_UTIME]) + int(fields[_STIME])
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pids: list[int]) -> int | None:
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else None


def _machine_ticks() -> tuple[int, int] | None:
    """Busy and all ticks of the machine's cores since its start."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_bytes().split(b"\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def available_memory() -> int | None:
    """Memory of this machine that is free or can be freed, in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
