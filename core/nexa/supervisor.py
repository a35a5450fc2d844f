"""`python -m nexa.supervisor [--detach] RUN_DIR ATTEMPT`: starts an attempt's workers and records their end.

A supervisor outlives the terminal that started it. SIGTERM asks the workers to stop at a checkpoint;
how the attempt ended is written once, to exit.json. Standard library only.
"""

from __future__ import annotations

import logging
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from nexa.errors import NexaError, UserError, WorkerError
from nexa.files import ReservedFile, read_json, write_json_once
from nexa.logs import configure_logging
from nexa.quantities import seconds_of
from nexa.text import without_colours
from nexa.worker.command import worker_argv, worker_environment
from nexa.worker.container import FAILED_TO_START, contained
from nexa.worker.identity import ProcessIdentity
from nexa.worker.output import redirect_to
from nexa.worker.place import WorkerPlace, read_plan
from nexa.worker.processes import end_processes

# Workers whose starter was killed get this long to save a checkpoint before they are killed too.
ORPHAN_GRACE_SECONDS = 30.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ELASTIC_EXIT = re.compile(r"exitcode\s*:\s*-(\d+)\s*\(pid: \d+\)")

# What the start of a worker says in another environment that can't even read Nexa; see `nexa.worker.start`.
_START_WORDS = re.compile(r"^nexa: (.+)$", re.MULTILINE)

# Workers that are still there at the time limit get this long to end before they are killed.
_LIMIT_GRACE_SECONDS = 2.0

_log = logging.getLogger("nexa.supervisor")


class Supervisor:
    """Starts the workers of one attempt on this machine and waits for their end.

    A scheduler's own supervisor overrides `command`, `stop_reason`, `time_limit`, `attend` and `conclude`.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.place = place
        self.plan = read_plan(place.run_dir, place.attempt)
        self._exit_file = ReservedFile(place.attempt_dir / "exit.json")
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._signal: str | None = None

    def claim(self) -> None:
        """Become the one supervisor of the attempt. Raises UserError when there is one already."""
        identity = ProcessIdentity.current().document()
        if not write_json_once(self.place.attempt_dir / "supervisor.json", identity):
            self._exit_file.release()
            raise UserError(
                f"attempt {self.place.attempt} of {self.place.run_dir.name} already has a supervisor",
                hint="a supervisor is started once; to try again: nexa resume",
            )

    def run(self) -> int:
        """Start the workers, wait, record; return the exit code of the workers."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        try:
            workers = self._start()
        except OSError as error:
            reason = f"the workers can't be started with {error.filename}: {error.strerror or error}"
            _log.error(reason)
            self._record(1, None, "failed", reason)
            return 1
        code = self._wait(workers)
        left = end_processes(
            self.place.run_dir, self.place.attempt, grace_seconds=ORPHAN_GRACE_SECONDS, spare={os.getpid()}
        )
        if left:
            _log.error("processes %s can't be ended", left)
        state, reason = self.conclude(code)
        _log.info("attempt %d ended: %s %s", self.place.attempt, state, reason)
        self._record(code, -code if code < 0 else None, state, reason)
        return 128 - code if code < 0 else code

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Command and environment that start the workers."""
        launch = self.plan["launch"]
        argv = worker_argv(launch, self.place.run_dir, self.place.attempt)
        variables = worker_environment(os.environ, launch, self.place.run_dir, self.place.attempt)
        return contained(launch, argv, variables, self.place.run_dir, self.place.attempt)

    def stop_reason(self, signal_name: str) -> str:
        """What to tell the workers when a signal asks this supervisor to stop them."""
        return f"{signal_name} received by the supervisor"

    def time_limit(self) -> tuple[float, float] | None:
        """Seconds from now at which to ask the workers to stop, and at which to end them; None without a limit."""
        cluster = self.plan["recipe"].get("cluster") or {}
        if cluster.get("time_limit") is None:
            return None
        limit = float(seconds_of(cluster["time_limit"]))
        return limit - float(cluster["stop_lead_seconds"]), limit

    def attend(self) -> float:
        """Do what requests in the attempt's folder ask for; return seconds until the next look at them."""
        return 60.0

    def conclude(self, code: int) -> tuple[str, str]:
        """State and reason of the attempt whose workers ended with `code` (negative for a signal)."""
        return conclude(self.place.attempt_dir, code, self.log_tail(), launch=self.plan["launch"])

    def _start(self) -> subprocess.Popen[bytes]:
        argv, environment = self.command()
        _log.info("starting workers: %s", shlex.join(argv))
        return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def _wait(self, workers: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the workers; pass a signal or the time limit on as a stop request."""
        limit = self.time_limit()
        begun = time.monotonic()
        while True:
            code = workers.poll()
            if code is not None:
                return code
            if self._signal is not None:
                name, self._signal = self._signal, None
                self.request_stop(self.stop_reason(name))
            patience = self.attend()
            if limit is not None:
                patience = min(patience, self._keep_limit(*limit, time.monotonic() - begun))
            select.select([self._wake_reader], [], [], patience)
            while select.select([self._wake_reader], [], [], 0)[0]:
                os.read(self._wake_reader, 4096)

    def _keep_limit(self, stop_after: float, end_after: float, elapsed: float) -> float:
        """Stop or end the workers when their time is over; returns seconds until the next look."""
        if elapsed >= end_after:
            _log.error("the time limit is over; the workers are ended")
            write_json_once(
                self.place.attempt_dir / "kill",
                {"reason": "the time limit was over before a checkpoint was saved", "requested_at": time.time()},
            )
            end_processes(
                self.place.run_dir, self.place.attempt, grace_seconds=_LIMIT_GRACE_SECONDS, spare={os.getpid()}
            )
            return 1.0
        if elapsed < stop_after:
            return stop_after - elapsed
        limit = self.plan["recipe"]["cluster"]["time_limit"]
        self.request_stop(f"time limit of {limit}")
        return end_after - elapsed

    def request_stop(self, reason: str) -> None:
        """Ask the workers to stop at the next step boundary; the first reason stays."""
        try:
            write_json_once(self.place.attempt_dir / "stop", {"reason": reason, "requested_at": time.time()})
        except OSError as error:
            _log.error("the stop request can't be written: %s", error)

    def log_tail(self) -> str:
        """End of the supervisor's log, where torchrun says how its ranks ended."""
        path = supervisor_log(self.place.run_dir, self.place.attempt)
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 16384))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _record(self, code: int, signal_number: int | None, state: str, reason: str) -> None:
        document = {
            "exit_code": 128 - code if code < 0 else code,
            "signal": signal.Signals(signal_number).name if signal_number else None,
            "state": state,
            "reason": reason,
            "ended_at": time.time(),
        }
        try:
            self._exit_file.write_once(document)
        except OSError as error:
            _log.error("the end can't be recorded: %s", error)


def supervisor_log(run_dir: Path, attempt: int) -> Path:
    """Where the supervisor, and torchrun below it, print."""
    return run_dir / "logs" / f"{attempt}-supervisor.log"


def conclude(
    attempt_dir: Path, code: int, log_tail: str = "", *, launch: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    """Return state and reason of an attempt whose workers ended.

    code: exit code of the worker or of torchrun, negative for a signal. log_tail: what torchrun or a
    container runtime printed last. launch: how they were started. The workers' own records count most.
    """
    kill = read_json(attempt_dir / "kill")
    result = read_json(attempt_dir / "result.json")
    error = read_json(attempt_dir / "error.json")
    # Workers that a kill reached at a step boundary end in order, and yet the run was killed.
    if kill is not None and (result is None or result["state"] != "completed"):
        return "killed", str(kill.get("reason", ""))
    if code == 0 and result is not None:
        return str(result["state"]), str(result.get("reason") or "")
    if error is not None:
        return "failed", _failure_text(error)
    rank_signal = _ELASTIC_EXIT.search(log_tail)
    number = -code if code < 0 else int(rank_signal.group(1)) if rank_signal else None
    if number is not None:
        return "failed", _signal_text(number)
    if code == 0:
        return "failed", "the workers ended without a result"
    if (words := _START_WORDS.findall(log_tail)) or (
        words := _container_words(launch or {}, attempt_dir, code, log_tail)
    ):
        return "failed", str(words[-1])
    return "failed", f"the workers ended with exit code {code}"


def _container_words(launch: Mapping[str, Any], attempt_dir: Path, code: int, log_tail: str) -> list[str]:
    """What was said in a container, or by its runtime, where no worker ever started."""
    container = launch.get("container")
    if not container or any((attempt_dir / "workers").glob("*.json")):
        return []
    lines = (line.strip() for line in without_colours(log_tail).splitlines())
    said = [line for line in lines if line and not line.startswith("{")]
    why = FAILED_TO_START.get(code, f"ended with exit code {code}")
    last = said[-1] if said else "it said nothing"
    return [f"{container['runtime']} {why} ({container['image']}, {launch['python']}): {last}"]


def _failure_text(error: Mapping[str, Any]) -> str:
    hint = error.get("hint")
    return f"{error.get('message', '')} ({hint})" if hint else str(error.get("message", ""))


def _signal_text(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    causes = {
        "SIGKILL": "; often the machine ran out of memory",
        "SIGBUS": "; often a full disk or shared memory",
        "SIGSEGV": "; a crash in compiled code",
        "SIGILL": "; compiled code for another processor",
    }
    return f"a worker was killed by {name}{causes.get(name, '')}"


def detach() -> int:
    """Fork into a session of its own; returns, in the child only, the descriptor that reports success.

    The parent waits for the child's word and exits 0 once it supervises, or 1 with its error.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        if answer != b"ok":
            sys.stderr.write(answer.decode("utf-8", "replace"))
        os._exit(0 if answer == b"ok" else 1)
    os.close(reader)
    os.setsid()
    return writer


def main(argv: Sequence[str] | None = None) -> int:
    """Supervise one attempt; return the workers' exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        place = WorkerPlace.from_command([word for word in arguments if word != "--detach"], {})
        report = detach() if "--detach" in arguments else None
        supervisor = prepare(place, make=Supervisor, report=report)
    except NexaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return supervisor.run()


SupervisorType = TypeVar("SupervisorType", bound=Supervisor)


def prepare(
    place: WorkerPlace,
    *,
    make: Callable[[WorkerPlace], SupervisorType],
    report: int | None = None,
) -> SupervisorType:
    """Become the attempt's supervisor, with a log of its own.

    make: the supervisor's class. report: descriptor on which a detaching parent hears how that went.
    Raises NexaError.
    """
    try:
        redirect_to(supervisor_log(place.run_dir, place.attempt))
        bound: dict[str, Any] = {"run_id": place.run_dir.name, "attempt": place.attempt, "rank": "supervisor"}
        configure_logging(sys.stderr, **bound, libraries=False)
        try:
            supervisor = make(place)
        except OSError as error:
            raise WorkerError(f"the run folder {place.run_dir} can't be written: {error.strerror or error}") from error
        supervisor.claim()
    except NexaError as error:
        if report is not None:
            os.write(report, f"error: {error}\n".encode())
        raise
    if report is not None:
        os.write(report, b"ok")
        os.close(report)
    return supervisor


if __name__ == "__main__":
    sys.exit(main())
