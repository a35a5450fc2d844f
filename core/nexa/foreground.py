"""Runs that train in this process: an ordinary run, whose worker is the command that started it.

`fit_to_ranks` and `begin` make the run, once for all ranks; `work` is one rank's part. The process of
rank 0 takes the supervisor's place: it records how the attempt ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, RecipeError, RunError, UserError, WorkerError
from nexa.files import ReservedFile, write_json, write_json_once
from nexa.scheduler import Attempt, JobRef, Submission
from nexa.supervisor import conclude
from nexa.worker.command import ATTEMPT_VARIABLE, RUN_DIR_VARIABLE
from nexa.worker.failure import record_failure, reserve_error_file
from nexa.worker.identity import ProcessIdentity
from nexa.worker.place import LauncherRanks, WorkerPlace, read_plan
from nexa.worker.session import WorkerSession
from nexa.worker.stop import SIGNALS

if TYPE_CHECKING:
    from nexa.backend import Backend, RunResult
    from nexa.plan import Plan
    from nexa.recipe.load import RecipeTree
    from nexa.runs.store import Run
    from nexa.worker.script import Script
    from nexa.worker.session import Train

SCHEDULER = "local"
"""The scheduler that a foreground run is found by, and resumed with in the background."""

_NOTE = "runs in the command that started it"


def fit_to_ranks(tree: RecipeTree, ranks: LauncherRanks | None) -> RecipeTree:
    """The recipe with the machines and processes that the launcher started, or one process without it.

    Raises RecipeError where the command line asks for other numbers.
    """
    from nexa.recipe.node import Node, Origin, OriginKind
    from nexa.recipe.views import value_at

    tree = tree.typed("scheduler", Node(SCHEDULER, Origin(OriginKind.FLAG)))
    there = ranks or LauncherRanks()
    per_node = "cluster.gpus_per_node" if value_at(tree.root, "cluster.gpus_per_node") else "cluster.processes_per_node"
    problems = []
    for key, number in {"cluster.num_nodes": there.num_nodes, per_node: there.local_world_size}.items():
        node = tree.root.find(key.split("."))
        asked = None if node is None else node.value
        if asked in (None, number):
            pass
        elif ranks is None or (node is not None and node.origin.kind in (OriginKind.FLAG, OriginKind.OVERRIDE)):
            problems.append(_other_number(key, asked, number, torchrun=ranks is not None))
            continue
        tree = tree.typed(key, Node(number, Origin(OriginKind.FLAG)))
    if problems:
        raise RecipeError(problems)
    return tree


def _other_number(key: str, asked: Any, number: int, *, torchrun: bool) -> Problem:
    if torchrun:
        return Problem(path=key, message=f"{asked} asked for, and the launcher started {number}", hint="leave it out")
    return Problem(
        path=key,
        message=f"{asked} asked for, and this is one process",
        hint=f"start several with: torchrun --nproc_per_node={asked} -m nexa train …, or in the background with: "
        "nexa launch",
    )


def begin(plan: Plan, ranks: LauncherRanks | None = None, *, script: Script | None = None) -> WorkerPlace:
    """Make the run of a plan, to be worked on by this process as rank 0. Raises as `launch_plan` does.

    script: the one that brings the model, which `nexa resume` starts again.
    """
    from nexa.launching import create_run

    if plan.worker.python != sys.executable:
        raise UserError(
            f"backend {plan.backend.name!r} trains in an environment of its own, {plan.worker.python}",
            hint="start it with: nexa launch",
        )
    run, attempt, _ = create_run(
        plan,
        submission=Submission(argv=list(sys.argv), notes=[_NOTE]),
        script=script.document() if script else None,
    )
    return _claimed(run.path, attempt, ranks)


def begin_again(run: Run, ranks: LauncherRanks | None = None) -> WorkerPlace:
    """Make the attempt that continues a run in this process. Raises RunError as `nexa.runs.actions.resume`."""
    from nexa.runs.actions import resumption

    number, checkpoint, reason = resumption(run)
    world = (ranks or LauncherRanks()).world_size
    resources = run.plan["resources"]
    asked = resources["num_nodes"] * resources["processes_per_node"]
    if asked != world:
        raise RunError(
            f"run {run.run_id} trains in {asked} processes, and {'these are' if world > 1 else 'this is'} {world}",
            hint=f"type: torchrun --nproc_per_node={resources['processes_per_node']} -m nexa train --resume "
            f"{run.run_id}, or: nexa resume {run.run_id}",
        )
    return _claimed(run.path, run.create_attempt(number, resume_from=checkpoint, reason=reason), ranks)


def join(run_dir: str, attempt: int, ranks: LauncherRanks) -> WorkerPlace:
    """The place of another rank than 0 in a run that rank 0 has begun."""
    return WorkerPlace(
        run_dir=Path(run_dir),
        attempt=attempt,
        rank=ranks.rank,
        local_rank=ranks.local_rank,
        world_size=ranks.world_size,
    )


def agree(backend: Backend, ranks: LauncherRanks | None, make: Callable[[], WorkerPlace]) -> WorkerPlace | None:
    """Let rank 0 `make` the run and tell the other ranks, also that it could not; returns None on those then.

    Raises what `make` raises, on rank 0, and WorkerError where rank 0 can't be reached.
    """
    if ranks is None or ranks.world_size == 1:
        return make()
    if ranks.rank:
        told = json.loads(backend.share(None))
        return join(told["run_dir"], told["attempt"], ranks) if told else None
    made: dict[str, Any] = {}
    try:
        place = make()
        made = {"run_dir": str(place.run_dir), "attempt": place.attempt}
    finally:
        backend.share(json.dumps(made))
    return place


def _claimed(run_dir: Path, attempt: Attempt, ranks: LauncherRanks | None) -> WorkerPlace:
    """Rank 0's place in a new attempt, with this process recorded as the one that looks after it."""
    place = join(str(run_dir), attempt.number, ranks or LauncherRanks())
    identity = ProcessIdentity.current().document()
    details = {**identity, "run_dir": str(run_dir), "attempt": attempt.number}
    try:
        write_json_once(place.attempt_dir / "supervisor.json", identity)
        job = JobRef(scheduler=SCHEDULER, job_id=str(identity["pid"]), details=details)
        write_json(place.attempt_dir / "job.json", asdict(job))
    except OSError as error:
        raise WorkerError(f"the run folder {run_dir} can't be written: {error.strerror or error}") from error
    return place


def work(
    place: WorkerPlace, *, train: Train | None = None, on_interrupt: Callable[[], None] | None = None
) -> RunResult:
    """Do one rank's part of an attempt in this process and record how it ended.

    train: see `WorkerSession`. on_interrupt: called at the first Ctrl-C, which asks for a stop with a
    checkpoint; the second raises KeyboardInterrupt at once. Raises what training raises. Signal handlers
    and environment are as before when this returns.
    """
    variables = read_plan(place.run_dir, place.attempt)["launch"].get("env", {})
    marks = {**variables, RUN_DIR_VARIABLE: str(place.run_dir), ATTEMPT_VARIABLE: str(place.attempt)}
    exit_file = ReservedFile(place.attempt_dir / "exit.json") if place.rank == 0 else None
    reserve = reserve_error_file(place)
    code = 1
    try:
        with _environment(marks), _signal_handlers_kept():
            result = WorkerSession(place, train=train, on_interrupt=on_interrupt).run()
        reserve.release()
        code = 0
        return result
    except KeyboardInterrupt as error:
        request = {"reason": "Ctrl-C twice", "requested_at": time.time()}
        with suppress(OSError):
            write_json_once(place.attempt_dir / "kill", request)
        code = record_failure(place, error, reserve)
        raise
    except BaseException as error:
        code = record_failure(place, error, reserve)
        raise
    finally:
        if exit_file is not None:
            _record_end(place, exit_file, code)


def _record_end(place: WorkerPlace, exit_file: ReservedFile, code: int) -> None:
    state, reason = conclude(place.attempt_dir, code)
    document = {"exit_code": code, "signal": None, "state": state, "reason": reason, "ended_at": time.time()}
    # On a disk that refuses it, the worker's own record tells how the attempt ended.
    with suppress(OSError):
        exit_file.write_once(document)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables that what a worker starts inherits; a person's own settings of the rest stay."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """The signal handlers that a worker sets are taken back; in another thread than the main one it sets none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
