"""Log files of a run: which there are, their last lines, and lines as they are added."""

from __future__ import annotations

import os
from pathlib import Path

from nexa.errors import RunError
from nexa.events.reader import LineReader
from nexa.runs.store import Run

SUPERVISOR = "supervisor"
_BLOCK_BYTES = 65536


class LogFile:
    """One log file, read while it grows; lines are split at newlines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path.stem.partition("-")[2]
        """Rank, or "supervisor"."""
        self._reader = LineReader(path)

    def skip_to_last(self, lines: int) -> None:
        """Begin at the last so many lines instead of at the start; call before reading."""
        try:
            with self.path.open("rb") as file:
                self._reader.seek(offset_of_last(file.fileno(), lines))
        except FileNotFoundError:
            return

    def new_lines(self, *, final: bool = False) -> list[str]:
        """Return the lines added since the last call; with `final` also one without its newline."""
        data = b"".join(self._reader.blocks())
        if final:
            data += self._reader.remainder()
        lines = data.decode("utf-8", "replace").split("\n")
        return lines[:-1] if not lines[-1] else lines


def offset_of_last(descriptor: int, lines: int) -> int:
    """Offset in a file at which its last `lines` lines begin, reading backwards only as far as needed."""
    end = os.fstat(descriptor).st_size
    # The newline that ends the last line does not begin another.
    wanted = lines + 1 if end and os.pread(descriptor, 1, end - 1) == b"\n" else lines
    position = end
    while position > 0 and wanted > 0:
        begin = max(0, position - _BLOCK_BYTES)
        block = os.pread(descriptor, position - begin, begin)
        cut = len(block)
        while wanted > 0 and (cut := block.rfind(b"\n", 0, cut)) >= 0:
            wanted -= 1
        if wanted == 0:
            return begin + cut + 1
        position = begin
    return 0 if lines else end


def find_logs(run: Run, *, attempt: int | None, rank: str) -> list[LogFile]:
    """Return the log files of an attempt (default: the newest): of one rank, the supervisor, or "all".

    Raises RunError, naming what there is, when there is no such attempt or log.
    """
    numbers = [folder.number for folder in run.attempts]
    number = attempt if attempt is not None else max(numbers, default=1)
    if attempt is not None and attempt not in numbers:
        have = ", ".join(map(str, numbers)) or "none"
        raise RunError(f"run {run.run_id} has no attempt {attempt}", hint=f"attempts: {have}")
    folder = run.path / "logs"
    if rank != "all":
        path = folder / f"{number}-{rank}.log"
        started = (run.path / "attempts" / str(number) / "workers" / f"{rank}.json").exists()
        # A worker that is about to start has no log yet.
        if path.exists() or rank == "0" or started:
            return [LogFile(path)]
    paths = sorted(folder.glob(f"{number}-*.log"), key=lambda path: (len(path.name), path.name))
    if rank == "all" and paths:
        return [LogFile(path) for path in paths]
    have = ", ".join(path.stem.partition("-")[2] for path in paths) or "none yet"
    raise RunError(f"attempt {number} of run {run.run_id} has no log of rank {rank}", hint=f"logs: {have}")
