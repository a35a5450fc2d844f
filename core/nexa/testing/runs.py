"""Real runs for contract tests: a run directory, a worker process, and what it left behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexa import __version__
from nexa.artifacts import ArtifactStore
from nexa.backend import LaunchSpec, Resources
from nexa.events.reader import EventReader
from nexa.files import read_json
from nexa.plan import Plan, make_plan
from nexa.plugins import get_host, load_target
from nexa.recipe.load import LoadedRecipe
from nexa.recipe.schema import Recipe
from nexa.runs.store import Run, RunStore
from nexa.scheduler import Attempt
from nexa.settings import Settings
from nexa.worker.command import worker_argv, worker_environment

WORKER_TIMEOUT_S = 240.0
_POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one attempt's worker ended: exit code, the files it wrote, and its output.

    events: records of rank 0. result, error: result.json and error.json, None where absent.
    """

    exit_code: int
    events: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    output: str

    def of_type(self, type: str) -> list[Mapping[str, Any]]:
        """The event records of one type, in order."""
        return [record for record in self.events if record["type"] == type]


def plan_recipe(recipe: Recipe, folder: Path) -> Plan:
    """Plan a recipe as `nexa launch` does, with runs in `folder`. Raises RecipeError, PluginError."""
    loaded = LoadedRecipe(
        recipe=recipe, path=folder / "recipe.yaml", name=recipe.run.name or "tiny", origins={}, files=()
    )
    store_uri = recipe.artifacts.store_uri or f"file://{folder.absolute()}/artifacts"
    settings = Settings(runs_dir=folder.absolute() / "runs", store_uri=store_uri)
    return make_plan(loaded, host=get_host(), settings=settings)


def make_run(recipe: Recipe, folder: Path) -> Run:
    """Plan a recipe as `nexa launch` does and write its run directory below `folder`; starts nothing."""
    plan = plan_recipe(recipe, folder)
    plan.environment.place_code()
    return create_run(recipe, folder, launch=plan.worker, resources=plan.resources, more=plan.document())


def create_run(
    recipe: Recipe,
    folder: Path,
    *,
    launch: LaunchSpec,
    resources: Resources,
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Write a run directory below `folder` for workers started as `launch` says; `more` goes into the plan."""
    name = recipe.run.name or "tiny"
    document: dict[str, Any] = {
        "recipe_name": name,
        "recipe_path": str(folder / "recipe.yaml"),
        "method": recipe.method,
        "backend": recipe.backend,
        "scheduler": recipe.scheduler,
        "nexa_version": __version__,
        "argv": [],
        "parent": None,
    }
    plan = {
        "recipe": recipe.document(),
        "launch": {**asdict(launch), "env": dict(launch.env)},
        "resources": asdict(resources),
        "store": {"factory": get_host().spec("artifact-store", "file").factory, "uri": recipe.artifacts.store_uri},
        "observers": [],
        "lineage": {},
        **(more or {}),
    }
    text = json.dumps(recipe.document(), indent=2)
    return RunStore(folder / "runs").create(name, document=document, recipe_yaml=text, plan=plan)


def recipe_of(run: Run) -> Recipe:
    """The recipe a run was made from."""
    document = run.plan["recipe"]
    options = {name: section for name, section in document.items() if name not in Recipe.model_fields}
    core = {name: section for name, section in document.items() if name in Recipe.model_fields}
    return Recipe.model_validate({**core, "plugin_options": options})


def open_store(run: Run) -> ArtifactStore:
    """The artifact store that a run commits to."""
    store: ArtifactStore = load_target(run.plan["store"]["factory"])()
    store.open(run.plan["store"]["uri"])
    return store


def start_worker(run: Run, attempt: Attempt) -> subprocess.Popen[bytes]:
    """Start the attempt's worker as a supervisor does; its output goes to `logs/`."""
    launch = run.plan["launch"]
    with (run.path / "logs" / f"{attempt.number}-test.log").open("wb") as log:
        return subprocess.Popen(
            worker_argv(launch, run.path, attempt.number),
            env=worker_environment(os.environ, launch, run.path, attempt.number),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run.path,
        )


def run_attempt(
    run: Run,
    *,
    resume_from: str | None = None,
    stop_when: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None,
) -> Outcome:
    """Run the next attempt in a worker process and wait for its end.

    resume_from: name of a checkpoint artifact. stop_when: given the events so far; once true, a stop
    is requested as `nexa stop` does. Raises TimeoutError, after killing the worker, when it hangs.
    """
    number = len(run.attempts) + 1
    attempt = run.create_attempt(number, resume_from=resume_from, reason="contract test")
    worker = start_worker(run, attempt)
    folder = run.attempts[-1]
    reader = EventReader(folder.events_path)
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + WORKER_TIMEOUT_S
    try:
        while worker.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker runs after {WORKER_TIMEOUT_S:g} s:\n{_output(run, number)}")
            events += reader.poll()
            if stop_when is not None and stop_when(events):
                folder.request("stop", "contract test")
                stop_when = None
            time.sleep(_POLL_S)
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
    return Outcome(
        exit_code=worker.returncode,
        events=[*events, *reader.poll()],
        result=read_json(folder.path / "result.json"),
        error=read_json(folder.path / "error.json"),
        output=_output(run, number),
    )


def _output(run: Run, attempt: int) -> str:
    logs = sorted((run.path / "logs").glob(f"{attempt}-*.log"))
    return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')}" for log in logs)
