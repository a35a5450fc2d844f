"""Why a run should stop: a signal, a request file, or a supervisor that is gone. Standard library only."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from nexa.files import read_json
from nexa.worker.identity import Liveness, ProcessIdentity

_FILE_SECONDS = 0.2
_SUPERVISOR_SECONDS = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequests:
    """Called by training loops at every step; cheap enough for that. The first reason stays.

    Processes of one run may see a request at different steps: a backend with several ranks agrees on
    the step among them.
    """

    def __init__(
        self,
        attempt_dir: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_interrupt: Callable[[], None] | None = None,
    ) -> None:
        """on_interrupt: called at the first Ctrl-C, where a person is at the terminal; the second then raises."""
        self._file = attempt_dir / "stop"
        self._on_interrupt = on_interrupt
        self._supervisor = ProcessIdentity.from_document(read_json(attempt_dir / "supervisor.json") or {})
        self._clock = clock
        self._next_file = 0.0
        self._next_supervisor = 0.0
        self._signal: str | None = None
        self._reason: str | None = None
        self._failure: Exception | None = None
        self._lock = threading.Lock()

    def install(self) -> None:
        """Let SIGTERM, SIGINT and SIGUSR1 request a stop, and ignore a closed terminal. Main thread only."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # A scheduler may have kept them back until now, so that none was lost.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._on_interrupt is not None and number == signal.SIGINT:
            if self._signal == "SIGINT":
                raise KeyboardInterrupt
            self._on_interrupt()
        # Only a flag: the interrupted code may hold any lock.
        self._signal = signal.Signals(number).name

    def fail(self, error: Exception) -> None:
        """Make the next call raise `error`: a helper thread can't continue and the run must end."""
        self._failure = error

    def __call__(self) -> str | None:
        """Return why the run should stop at the next step boundary, None when it should go on.

        Raises the error given to `fail`.
        """
        if self._failure is not None:
            raise self._failure
        with self._lock:
            if self._reason is None:
                self._reason = self._look()
            return self._reason

    def _look(self) -> str | None:
        now = self._clock()
        # The file first: it says why, where a signal says only that.
        if now >= self._next_file or self._signal:
            self._next_file = now + _FILE_SECONDS
            if self._file.exists():
                return str((read_json(self._file) or {}).get("reason", "stop requested"))
        if self._signal:
            return f"{self._signal} received"
        if self._supervisor is not None and now >= self._next_supervisor:
            self._next_supervisor = now + _SUPERVISOR_SECONDS
            if self._supervisor.liveness() is Liveness.GONE:
                return "the supervisor of this run is gone"
        return None
