"""`python -m nexa_slurm.job RUN_DIR ATTEMPT`: what batch.sh becomes on a job's first node.

It supervises the attempt as `nexa.supervisor` does on one machine, with srun's tasks as its workers, and
puts the job back into the queue when its time is over. In an array RUN_DIR is a JSON list of
[run folder, attempt], from which each task takes its own.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nexa.errors import NexaError, UserError
from nexa.files import read_json, write_json_once
from nexa.runs.jobs import record_job
from nexa.runs.store import AttemptFolder, Run
from nexa.scheduler import Attempt
from nexa.supervisor import Supervisor, prepare
from nexa.worker.command import worker_environment
from nexa.worker.place import WorkerPlace
from nexa.worker.processes import end_processes
from nexa_slurm.allocation import Allocation
from nexa_slurm.commands import SlurmError, show_job
from nexa_slurm.members import member_of
from nexa_slurm.restarts import (
    NothingToDo,
    attempt_to_run,
    job_ref,
    makes_no_progress,
    next_attempt,
    put_back,
)
from nexa_slurm.states import job_state
from nexa_slurm.tasks import local_path, srun_argv

_TIME_OVER = "Slurm announced the end of the job's time (SIGUSR1)"
_NODE_WORDS = re.compile(r"^nexa: (node .*)$", re.MULTILINE)
# Slurm's own account of a start that failed; what it says of tasks that failed by themselves adds nothing.
_SLURM_WORDS = re.compile(
    r"^(?:slurmstepd[^:]*|srun): "
    r"(error: (?!.*(?:task \d|STEP |JOB |Exited with|Killed)).*|.*(?:oom.kill|Out Of Memory).*)$",
    re.MULTILINE,
)
_TAIL_BYTES = 16384
# Requests come as files, which every file system and any part of a job array can carry.
_ATTEND_SECONDS = 1.0
_NODE_START_SECONDS = 180.0
_END_SECONDS = 5.0

_log = logging.getLogger("nexa.slurm")


class SlurmSupervisor(Supervisor):
    """The supervisor of an attempt that runs as a Slurm job."""

    def __init__(self, place: WorkerPlace, allocation: Allocation) -> None:
        super().__init__(place)
        self.run_folder = Run(place.run_dir)
        self.attempt = AttemptFolder(place.run_dir, place.attempt)
        self.allocation = allocation
        self.received: set[str] = set()
        self.waiting: AttemptFolder | None = None
        """The attempt that the job's next start is for, once there is to be one."""
        self.puts_back = False
        """Whether this process asks for that start, which Slurm does not do by itself."""
        self.silent: list[str] = []
        """Nodes that were given up, because they did not show in time that they start."""
        self._begun_at = time.monotonic()
        self._expects_nodes = allocation.num_nodes > 1

    def command(self) -> tuple[list[str], dict[str, str]]:
        """One task a node; each becomes that node's workers."""
        argv = srun_argv(self.plan, self.place, self.allocation)
        return argv, worker_environment(os.environ, {}, self.place.run_dir, self.place.attempt)

    def time_limit(self) -> None:
        """Slurm keeps the limit, and tells in time by SIGUSR1."""
        return

    def attend(self) -> float:
        """Stop the workers where a requeue is asked for; `conclude` then puts the job back."""
        request = self.attempt.requested("requeue")
        if request is not None:
            self.request_stop(str(request["reason"]))
        self._expect_nodes()
        return _ATTEND_SECONDS

    def _expect_nodes(self) -> None:
        """End an attempt that some of its nodes have not joined in time, which the others would wait for long."""
        if not self._expects_nodes:
            return
        options = self.plan["recipe"].get("slurm") or {}
        patience = float(options.get("node_start_seconds") or _NODE_START_SECONDS)
        reports = local_path(self.place.attempt_dir, 0).parent
        if len([*reports.glob("*.json")]) >= self.allocation.num_nodes:
            self._expects_nodes = False
        elif time.monotonic() - self._begun_at > patience:
            self._expects_nodes = False
            self.silent = self._silent_nodes()
            _log.error("no sign of %s within %g s; the others are ended", ", ".join(self.silent), patience)
            end_processes(self.place.run_dir, self.place.attempt, grace_seconds=_END_SECONDS, spare={os.getpid()})

    def stop_reason(self, signal_name: str) -> str:
        """Why Slurm sent the signal."""
        self.received.add(signal_name)
        request = self.attempt.requested("requeue")
        if signal_name == "SIGUSR1":
            return str(request["reason"]) if request else _TIME_OVER
        return f"Slurm asked the job to end ({signal_name})"

    def conclude(self, code: int) -> tuple[str, str]:
        """State and reason; prepares the next attempt where the job goes back into the queue."""
        state, reason = self._ended(code)
        if state != "stopped" or self.attempt.read("exit") is not None:
            return state, reason
        try:
            return self._after_stop(reason)
        except NexaError as error:
            _log.error("the next attempt can't be prepared: %s", error)
            return state, f"{reason}; it is not continued: {error.message}"

    def _ended(self, code: int) -> tuple[str, str]:
        """How the workers ended, from their own records, then Slurm's words."""
        folder = self.place.attempt_dir
        # Slurm ends srun with an error when it was told to end the job, even where the workers ended in order.
        in_order = read_json(folder / "result.json") is not None and read_json(folder / "error.json") is None
        # srun ends with 128 + N where a task was ended by signal N.
        state, reason = super().conclude(0 if in_order else 128 - code if code > 128 else code)
        if state != "failed" or read_json(folder / "error.json") is not None:
            return state, reason
        if "SIGTERM" in self.received:
            return "lost", f"Slurm ended it before a checkpoint was saved; {self._slurm_state()}"
        if self.silent:
            return "failed", f"{_name_silent(self.silent)}; see the node, or raise slurm.node_start_seconds"
        words = self._words()
        return "failed", words or reason

    def _words(self) -> str:
        """What a node's probe or Slurm wrote about a start that failed."""
        text = self.log_tail()
        found = _NODE_WORDS.findall(text) or _SLURM_WORDS.findall(text)
        if found or self.allocation.num_nodes == 1:
            return "; ".join(dict.fromkeys(found[:3]))
        silent = self._silent_nodes()
        return _name_silent(silent) if silent else ""

    def _silent_nodes(self) -> list[str]:
        """Nodes whose task has not reported that it can see the run folder."""
        reported = {(read_json(path) or {}).get("node") for path in (self.place.attempt_dir / "nodes").glob("*.json")}
        try:
            return [node for node in self.allocation.nodes() if node not in reported]
        except NexaError:
            return []

    def log_tail(self) -> str:
        """End of the supervisor's log and of each node's."""
        logs = sorted((self.place.run_dir / "logs").glob(f"{self.place.attempt}-node*.log"))
        tails = [log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace") for log in logs]
        return "\n".join([*tails, super().log_tail()])

    def _after_stop(self, reason: str) -> tuple[str, str]:
        """Decide what a stop at a checkpoint means: the end, or another start of the job."""
        if self.attempt.requested("keep"):
            return "stopped", reason
        cause, by_itself = self._cause(reason)
        if cause is None:
            return "stopped", self._slurm_state() or reason
        budget = int(self.plan["recipe"]["cluster"]["max_restarts"])
        if self.allocation.restarts >= budget and not self.attempt.requested("requeue"):
            return "stopped", f"{cause}; cluster.max_restarts={budget} is used up"
        if cause == _TIME_OVER and makes_no_progress(self.run_folder, self.attempt):
            return "failed", (
                "twice in a row no step was finished before the time limit; "
                "raise cluster.time_limit, or lower cluster.stop_lead_seconds"
            )
        waiting = next_attempt(self.run_folder, self.allocation, cause)
        self.waiting, self.puts_back = AttemptFolder(waiting.run_dir, waiting.number), not by_itself
        if self.attempt.requested("keep"):
            # Asked to stop while the next attempt was being made.
            write_json_once(self.waiting.path / "keep", {"reason": "cancelled", "requested_at": time.time()})
        return (
            "stopped",
            f"{cause}; the job goes back into the queue (restart {self.allocation.restarts + 1} of {budget})",
        )

    def _cause(self, reason: str) -> tuple[str | None, bool]:
        """Why the job is to start again, None where it is not, and whether Slurm does so by itself."""
        request = self.attempt.requested("requeue")
        if request is not None:
            return str(request.get("reason", "requeued")), False
        if "SIGUSR1" in self.received:
            return _TIME_OVER, False
        state, fields = self._job()
        if int(fields.get("Restarts", "0")) > self.allocation.restarts:
            return "Slurm put the job back into the queue", True
        if fields.get("PreemptTime", "None") != "None":
            return "a job of a higher priority needs its nodes", False
        if "SIGUSR1" in reason and state.startswith("RUNNING"):
            return "SIGUSR1 reached the workers", False
        return None, False

    def _job(self) -> tuple[str, dict[str, str]]:
        try:
            state, fields = show_job(self.allocation.job_id)
        except SlurmError as error:
            _log.warning("Slurm can't be asked about the job: %s", error.message)
            return "", {}
        return state, dict(fields)

    def _slurm_state(self) -> str:
        """What Slurm says of a job that it ends; "" where it only goes on."""
        state, fields = self._job()
        if state.startswith(("RUNNING", "PENDING")) or not state:
            return ""
        if fields.get("Reason") == "TimeLimit":
            return job_state("TIMEOUT")[1]
        if "SIGTERM" in self.received and state.startswith(("COMPLETING", "CANCELLED")):
            return "cancelled in Slurm (scancel)"
        return f"Slurm says {state} {fields.get('Reason', '')}".strip()

    def finish(self) -> None:
        """Put the job back into the queue where that was decided, unless a stop came meanwhile."""
        if self.waiting is None:
            return
        if self.waiting.requested("keep") or self.waiting.requested("stop"):
            self._end_waiting()
        elif self.puts_back:
            # Slurm ends this process as soon as it obeys.
            lead = float(self.plan["recipe"]["cluster"]["stop_lead_seconds"])
            put_back(self.run_folder, self.waiting, self.allocation, lead)

    def _end_waiting(self) -> None:
        assert self.waiting is not None
        reason = (self.waiting.requested("stop") or {}).get("reason", "stopped before it started again")
        document = {"exit_code": None, "signal": None, "state": "stopped", "reason": reason, "ended_at": time.time()}
        write_json_once(self.waiting.path / "exit.json", document)


def _name_silent(nodes: Sequence[str]) -> str:
    return f"no sign of {', '.join(nodes)}, which did not report that it started"


def main(argv: Sequence[str] | None = None) -> int:
    """Supervise the attempt that this start of the job is for; return the workers' exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Until the supervisor listens, a signal must not end the process without a word.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    try:
        supervisor = _prepare(arguments)
    except NothingToDo as nothing:
        print(f"nexa: {nothing.reason}; nothing to do", file=sys.stderr, flush=True)
        return 0
    except NexaError as error:
        print(f"nexa: node {os.environ.get('SLURMD_NODENAME', '?')}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1))
    code = supervisor.run()
    supervisor.finish()
    return code


def _prepare(arguments: Sequence[str]) -> SlurmSupervisor:
    """Find the attempt to run and become its supervisor. Raises NothingToDo and NexaError."""
    allocation = Allocation.from_environment()
    if len(arguments) != 2 or not arguments[1].isdigit():
        raise UserError("a job is started with a run folder and an attempt", hint="nexa launch does that")
    run_dir, number = Path(arguments[0]), int(arguments[1])
    if allocation.task is not None:
        run_dir, number = member_of(run_dir, allocation.task)
    run = Run(run_dir)
    number = attempt_to_run(run, number, allocation)
    attempt = Attempt(run_id=run.run_id, run_dir=run_dir, number=number)
    # The submitting process may have been killed before it could record the job.
    record_job(attempt, job_ref(attempt, allocation))
    place = WorkerPlace(run_dir=run_dir, attempt=number)
    return prepare(place, make=lambda place: SlurmSupervisor(place, allocation))


if __name__ == "__main__":
    sys.exit(main())
