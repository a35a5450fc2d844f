"""Starts the processes of a test as torchrun does, without its agent: so that one can be killed alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 240.0


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Processes:
    """The processes of one group, in the order of their ranks, and the port they meet at."""

    ranks: list[subprocess.Popen[str]]
    port: int

    def wait(self) -> list[tuple[int, str]]:
        """Exit code and output of each; kills those that hang."""
        ended = []
        try:
            for process in self.ranks:
                out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
                ended.append((process.returncode, out))
        finally:
            for process in self.ranks:
                if process.poll() is None:
                    process.kill()
        return ended

    def succeed(self) -> None:
        """Wait, and fail with the output of a process that fails."""
        for code, out in self.wait():
            assert code == 0, out[-4000:]


def start(
    script: str, *arguments: str, world_size: int = 2, ranks: Sequence[int] | None = None, port: int | None = None
) -> Processes:
    """Start `script`, a file beside this one, once for each rank, or for some `ranks` alone."""
    port = port or free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(world_size) if ranks is None else ranks:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        environment = {**os.environ, **shared, **(place if world_size > 1 else {}), "PYTHONPATH": str(HERE.parent)}
        started.append(
            subprocess.Popen(
                [sys.executable, str(HERE / script), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return Processes(started, port)
