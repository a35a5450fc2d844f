"""`python -m nexa.sweeps.queue [--detach] FOLDER`: starts a sweep's runs as others end, a few at a time.

It outlives the terminal. What it knows lies in the folders of the sweep and its runs, so that after a kill
another process goes on where it ended; of several, one works. It ends when no run waits.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nexa.errors import NexaError, RunError
from nexa.files import write_json
from nexa.locks import owned_lock
from nexa.logs import configure_logging
from nexa.runs.actions import plan_attempt, record_end, submit_attempt
from nexa.runs.state import State, run_statuses
from nexa.runs.store import AttemptFolder, Run
from nexa.scheduler import Attempt
from nexa.supervisor import detach
from nexa.sweeps.store import Sweep, is_waiting
from nexa.worker.identity import ProcessIdentity
from nexa.worker.output import redirect_to

_POLL_SECONDS = 0.5
# A queue that was just killed leaves its lock for a moment; a living one keeps it.
_LOCK_SECONDS = 2.0

_log = logging.getLogger("nexa.sweeps")


class SweepQueue:
    """Keeps as many of a sweep's runs going as may at once."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._limit = int(sweep.document["max_concurrent"] or 1)
        self._ended: set[str] = set()

    def run(self) -> None:
        """Start every run that waits; returns when none is left to start."""
        while self.step():
            time.sleep(_POLL_SECONDS)

    def step(self) -> bool:
        """Start what may be started now; whether runs are left that wait."""
        waiting, going = self._look()
        for run, attempt in waiting[: max(0, self._limit - going)]:
            self._start(run, attempt)
        return len(waiting) > max(0, self._limit - going)

    def _look(self) -> tuple[list[tuple[Run, AttemptFolder]], int]:
        """Runs that wait, in order, and how many others have not ended."""
        waiting: list[tuple[Run, AttemptFolder]] = []
        begun: list[Run] = []
        for run in self.sweep.runs():
            attempt = run.latest_attempt
            if attempt is None or run.run_id in self._ended:
                continue
            if not is_waiting(attempt):
                begun.append(run)
            elif not _called_off(attempt):
                waiting.append((run, attempt))
        statuses = run_statuses(begun)
        self._ended |= {run.run_id for run, status in zip(begun, statuses, strict=True) if not status.active}
        return waiting, sum(status.active for status in statuses)

    def _start(self, run: Run, folder: AttemptFolder) -> None:
        attempt = Attempt(run_id=run.run_id, run_dir=run.path, number=folder.number)
        try:
            submit_attempt(run, attempt, *plan_attempt(run, folder.number, run.plan))
        except NexaError as error:
            _log.error("run %s can't be started: %s", run.run_id, error.message)
            record_end(folder, State.FAILED, f"it could not be started: {error.message}")
        except Exception as error:
            # A plugin's mistake with one run must not keep the others from their turn.
            _log.exception("run %s can't be started", run.run_id)
            record_end(folder, State.FAILED, f"it could not be started: {type(error).__name__}: {error}")
        else:
            _log.info("run %s started", run.run_id)


def _called_off(attempt: AttemptFolder) -> bool:
    """Whether a waiting attempt was asked to stop, which ends it."""
    request = attempt.requested("stop")
    if request is None:
        return False
    record_end(attempt, State.STOPPED, f"{request.get('reason', 'stopped')}, before its turn in the sweep")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Work off a sweep's queue; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sweep = Sweep(Path(arguments[-1]).absolute())
    report = detach() if "--detach" in arguments else None
    try:
        with owned_lock(sweep.path / "queue.lock", on_wait=_Impatience(sweep)):
            redirect_to(sweep.path / "queue.log")
            configure_logging(sys.stderr, run_id=sweep.sweep_id, attempt=0, rank="queue")
            queue = SweepQueue(sweep)
            write_json(sweep.queue_path, ProcessIdentity.current().document())
            # The terminal may go; whoever ends the queue ends it, and not the runs.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _tell(report, b"ok")
            report = None
            queue.run()
    except (NexaError, OSError) as error:
        _tell(report, f"error: {error}\n".encode())
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, NexaError) else 1
    return 0


class _Impatience:
    """Ends the wait for a lock that a living queue keeps."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._deadline = time.monotonic() + _LOCK_SECONDS

    def __call__(self, holder: str) -> None:
        if time.monotonic() > self._deadline:
            self._refuse(holder)

    def _refuse(self, holder: str) -> NoReturn:
        raise RunError(
            f"the queue of sweep {self._sweep.sweep_id} is at work: {holder}",
            hint=f"see: nexa sweep show {self._sweep.sweep_id}",
        )


def _tell(report: int | None, word: bytes) -> None:
    """Let a waiting parent know how the start went."""
    if report is not None:
        os.write(report, word)
        os.close(report)


if __name__ == "__main__":
    sys.exit(main())
