"""Starts a sweep: makes its runs, then hands them to the scheduler as one job, or to a queue of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import NexaError, RunError
from nexa.runs.jobs import job_of, record_job
from nexa.runs.state import State, run_statuses
from nexa.scheduler import ArrayMember, Attempt, JobArray, Scheduler, Submission, UncertainSubmissionError
from nexa.sweeps.store import Sweep, SweepStore, is_waiting

if TYPE_CHECKING:
    from nexa.runs.store import Run
    from nexa.sweeps.planning import SweepPlan

EXAMPLE_SWEEP_ID = "SWEEP_ID"


def start_sweep(planned: SweepPlan, *, argv: Sequence[str] | None = None) -> Sweep:
    """Make the runs of a planned sweep, start it and return it; it outlives this process.

    argv: the command line to record, by default this process's. Nothing is left behind where the runs can't
    be made. Raises UserError for folders and disks that won't do, and the scheduler's NexaError when it refuses.
    """
    from nexa.preflight import preflight

    preflight(planned.plans[0], runs=len(planned.plans))
    # What the scheduler can't take as one job is told before anything is written.
    planned_submission(planned)
    store = SweepStore(planned.runs_dir)
    sweep = store.reserve(planned.name)
    made: list[tuple[Run, Attempt]] = []
    submission = None
    try:
        if planned.in_array:
            folder = sweep.next_array()
            submission = plan_array(planned, sweep.sweep_id, folder)
        for number in range(1, len(planned.plans) + 1):
            made.append(_make_run(planned, number, sweep, submission, argv))
        store.fill(sweep, _document(planned, [run for run, _ in made], argv))
    except BaseException:
        for run, _ in made:
            shutil.rmtree(run.path, ignore_errors=True)
        store.discard(sweep)
        raise
    if submission is None:
        _start_queue(sweep)
    else:
        array = _array(sweep.sweep_id, folder, made, planned.max_concurrent)
        _submit(array, planned.plans[0].scheduler_plugin, submission, [run for run, _ in made])
    return sweep


def resume_sweep(sweep: Sweep, *, failed: bool = False) -> int:
    """Continue a sweep: start runs that never started, resume lost ones; return how many.

    failed: also runs that failed, were stopped or were killed. Raises RunError where there is nothing to do.
    """
    from nexa.plugins import get_host

    runs = sweep.runs()
    doomed = {State.LOST, *([State.FAILED, State.STOPPED, State.KILLED] if failed else [])}
    open_runs = [
        run for run, status in zip(runs, run_statuses(runs), strict=True) if status.state in doomed or _waits(run)
    ]
    if not open_runs:
        hint = "" if failed else f"; those that failed or were stopped: nexa sweep resume --failed {sweep.sweep_id}"
        raise RunError(
            f"sweep {sweep.sweep_id} has no run that is lost or was never started",
            hint=f"see: nexa sweep show {sweep.sweep_id}{hint}",
        )
    if "array" in get_host().spec("scheduler", sweep.document["scheduler"]).capabilities:
        _resume_in_array(sweep, open_runs)
        return len(open_runs)
    _refuse_second_queue(sweep)
    for run in open_runs:
        if not _waits(run):
            _new_attempt(run, {"sweep": sweep.sweep_id})
    _start_queue(sweep)
    return len(open_runs)


def planned_submission(planned: SweepPlan) -> Submission:
    """What starting the sweep does, with SWEEP_ID for its id. Touches nothing. Raises UserError."""
    folder = SweepStore(planned.runs_dir).root / EXAMPLE_SWEEP_ID
    if planned.in_array:
        return plan_array(planned, EXAMPLE_SWEEP_ID, folder / "arrays" / "1")
    how_many = f"{planned.max_concurrent} at a time" if planned.max_concurrent != 1 else "one after another"
    return Submission(argv=queue_argv(folder), notes=[f"starts the runs {how_many} and outlives this terminal"])


def plan_array(planned: SweepPlan, sweep_id: str, folder: Path) -> Submission:
    """What handing all runs to the scheduler does; run ids stand as RUN_ID. Raises UserError."""
    from nexa.plan import example_attempt

    members = [
        ArrayMember(
            attempt=example_attempt(plan.runs_dir), recipe=plan.recipe, launch=plan.worker, resources=plan.resources
        )
        for plan in planned.plans
    ]
    array = JobArray(name=sweep_id, folder=folder, members=members, max_concurrent=planned.max_concurrent)
    return planned.plans[0].scheduler_plugin.plan_array(array)


def queue_argv(folder: Path) -> list[str]:
    """Command of the process that starts the runs of the sweep in `folder` one after another."""
    return [sys.executable, "-m", "nexa.sweeps.queue", "--detach", str(folder)]


def _make_run(
    planned: SweepPlan, number: int, sweep: Sweep, submission: Submission | None, argv: Sequence[str] | None
) -> tuple[Run, Attempt]:
    from nexa.launching import create_run

    place = {"sweep": sweep.sweep_id}
    run, attempt, _ = create_run(
        planned.plans[number - 1],
        argv=argv,
        submission=submission,
        sweep={"id": sweep.sweep_id, "number": number, "overrides": dict(planned.members[number - 1])},
        queued=place if submission is None else {**place, "array": "1", "task": number - 1},
    )
    return run, attempt


def _document(planned: SweepPlan, runs: Sequence[Run], argv: Sequence[str] | None) -> dict[str, Any]:
    """Fields of `sweep.json` that the store does not add itself."""
    import nexa
    from nexa.text import redact_arguments

    first = planned.plans[0]
    return {
        "name": planned.name,
        "recipe_name": first.recipe_name,
        "recipe_path": str(first.recipe_path),
        "scheduler": first.scheduler.name,
        "method": planned.method,
        "seed": planned.seed,
        "max_concurrent": planned.max_concurrent,
        "varied": list(planned.varied),
        "monitor": first.recipe.checkpointing.monitor,
        "argv": redact_arguments(list(sys.argv if argv is None else argv)),
        "nexa_version": nexa.__version__,
        "members": [
            {"run_id": run.run_id, "overrides": dict(member)} for run, member in zip(runs, planned.members, strict=True)
        ],
    }


def _array(name: str, folder: Path, made: Sequence[tuple[Run, Attempt]], max_concurrent: int | None) -> JobArray:
    from nexa.backend import LaunchSpec, Resources
    from nexa.recipe.schema import Recipe

    members = [
        ArrayMember(
            attempt=attempt,
            recipe=Recipe.from_document(run.plan["recipe"]),
            launch=LaunchSpec.from_document(run.plan["launch"]),
            resources=Resources(**run.plan["resources"]),
        )
        for run, attempt in made
    ]
    return JobArray(name=name, folder=folder, members=members, max_concurrent=max_concurrent)


def _submit(array: JobArray, scheduler: Scheduler, submission: Submission, runs: Sequence[Run]) -> None:
    """Hand an array over and record its jobs; a refusal is recorded with every run and raised again."""
    from nexa.runs.actions import record_end

    try:
        jobs = scheduler.submit_array(array, submission)
    except UncertainSubmissionError:
        raise
    except NexaError as error:
        for run in runs:
            if (attempt := run.latest_attempt) is not None:
                record_end(attempt, State.FAILED, f"it could not be started: {error.message}")
        raise
    for run, member, job in zip(runs, array.members, jobs, strict=True):
        latest = run.latest_attempt
        # The job may have been quicker to record itself.
        if latest is not None and job_of(latest) is None:
            record_job(member.attempt, job)


def _resume_in_array(sweep: Sweep, runs: Sequence[Run]) -> None:
    from nexa.plugins import get_host

    scheduler: Scheduler = get_host().create("scheduler", sweep.document["scheduler"])
    folder = sweep.next_array()
    made = [
        (run, _new_attempt(run, {"sweep": sweep.sweep_id, "array": folder.name, "task": task}))
        for task, run in enumerate(runs)
    ]
    array = _array(sweep.sweep_id, folder, made, sweep.document["max_concurrent"])
    _submit(array, scheduler, scheduler.plan_array(array), runs)


def _new_attempt(run: Run, queued: dict[str, Any]) -> Attempt:
    from nexa.runs.actions import resumption

    number, checkpoint, reason = resumption(run)
    return run.create_attempt(number, resume_from=checkpoint, reason=reason, queued=queued)


def _waits(run: Run) -> bool:
    attempt = run.latest_attempt
    return attempt is not None and is_waiting(attempt)


def _refuse_second_queue(sweep: Sweep) -> None:
    from nexa.worker.identity import Liveness

    if sweep.queue_liveness() is Liveness.ALIVE:
        raise RunError(f"the queue of sweep {sweep.sweep_id} is at work", hint=f"see: nexa sweep show {sweep.sweep_id}")


def _start_queue(sweep: Sweep) -> None:
    """Start the queue's process; returns once it has taken the sweep over. Raises NexaError with its words."""
    import os
    import subprocess

    answer = subprocess.run(
        queue_argv(sweep.path),
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if answer.returncode != 0:
        words = answer.stderr.strip().removeprefix("error: ") or f"exit code {answer.returncode}"
        raise NexaError(
            f"the queue of sweep {sweep.sweep_id} can't be started: {words}",
            hint=f"its runs are made; try again: nexa sweep resume {sweep.sweep_id}",
        )
