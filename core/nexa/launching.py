"""Carries out a plan: makes the run's folder, writes what its workers read, hands it to the scheduler."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nexa.scheduler import Attempt

if TYPE_CHECKING:
    from nexa.plan import Plan
    from nexa.plugins import Kind
    from nexa.runs.store import Run
    from nexa.scheduler import Submission


def launch_plan(plan: Plan, *, argv: Sequence[str] | None = None, parent: str | None = None) -> Run:
    """Start a planned run and return it; it outlives this process.

    argv: the command line to record, by default this process's. parent: id of the run this one
    continues. Before anything is written, raises RecipeError when the plan has obstacles and UserError
    when folders or disk won't do. Raises the scheduler's NexaError when it refuses, which leaves the
    run recorded as failed with that reason.
    """
    from nexa.runs.actions import submit_attempt

    run, attempt, submission = create_run(plan, argv=argv, parent=parent)
    submit_attempt(run, attempt, plan.scheduler_plugin, submission)
    return run


def create_run(
    plan: Plan,
    *,
    argv: Sequence[str] | None = None,
    parent: str | None = None,
    submission: Submission | None = None,
    sweep: Mapping[str, Any] | None = None,
    queued: Mapping[str, Any] | None = None,
    script: Mapping[str, Any] | None = None,
) -> tuple[Run, Attempt, Submission]:
    """Make the run of a plan with its first attempt, and start nothing; see `launch_plan`.

    submission: how the attempt is started, where not by the plan's scheduler. sweep: the sweep's id, the
    run's place in it and its overrides, for a member of one. queued: see `Run.create_attempt`. script: the
    one that brings the model, as `nexa.worker.script.Script.document` says.
    """
    from nexa.environments.containers import make_mounted_folders
    from nexa.preflight import preflight
    from nexa.recipe.render import to_yaml
    from nexa.runs.store import RunStore

    plan.require_startable()
    preflight(plan)
    plan.environment.place_code()
    if plan.worker.container is not None:
        make_mounted_folders(plan.worker.container)
    store = RunStore(plan.runs_dir)
    run = store.reserve(plan.run_name)
    try:
        first = Attempt(run_id=run.run_id, run_dir=run.path, number=1)
        submission = submission or plan.submission(first)
        store.fill(
            run,
            document={
                **_run_document(plan, sys.argv if argv is None else argv, parent),
                **({"sweep": sweep} if sweep else {}),
            },
            recipe_yaml=to_yaml(plan.recipe.document()),
            plan={
                **plan.document(),
                "lineage": _lineage(plan, parent),
                "submission": asdict(submission),
                **({"script": script} if script else {}),
            },
        )
        plan.environment.claim(run.path)
        attempt = run.create_attempt(1, resume_from=None, reason="launched", queued=queued)
    except BaseException:
        # Nothing was started: a folder without a first attempt would be a run that never was.
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run, attempt, submission


def _run_document(plan: Plan, argv: Sequence[str], parent: str | None) -> dict[str, Any]:
    """Fields of `run.json` that the run store does not add itself."""
    import nexa
    from nexa.text import redact_arguments

    return {
        "name": plan.run_name,
        "recipe_name": plan.recipe_name,
        "recipe_path": str(plan.recipe_path),
        "method": plan.recipe.method,
        "backend": plan.backend.name,
        "scheduler": plan.scheduler.name,
        "argv": redact_arguments(list(argv)),
        "nexa_version": nexa.__version__,
        "parent": parent,
    }


def _lineage(plan: Plan, parent: str | None) -> dict[str, Any]:
    from nexa.lineage import collect_lineage
    from nexa.plugins import get_host

    host = get_host()
    chosen: list[tuple[Kind, str]] = [
        ("backend", plan.backend.name),
        ("scheduler", plan.scheduler.name),
        ("artifact-store", plan.store.name),
        *(("observer", spec.name) for spec in plan.observers),
    ]
    return collect_lineage(
        plan.recipe,
        recipe_folder=plan.recipe_path.parent,
        distributions=[host.provider_of(kind, name).distribution for kind, name in chosen],
        parent=parent,
    )
