"""The Python API: the same launches as the command line, for scripts and notebooks.

    import nexa

    meta = nexa.run_training_job("quickstart", ["training.max_steps=50"])
    run = nexa.launch("my.yaml", {"optimizer.lr": 1e-4})

Overrides are either command-line text ("key.path=value") or a mapping of dotted keys to values.
Raises NexaError as described in `nexa.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa.artifacts import ArtifactMeta
    from nexa.plan import Plan
    from nexa.recipe.load import LoadedRecipe
    from nexa.recipe.schema import Recipe
    from nexa.runs.state import RunStatus
    from nexa.runs.store import Run

Overrides = Sequence[str] | Mapping[str, Any]

_POLL_SECONDS = 0.2


class TrainingPipeline:
    """One training job: resolve it, show its plan, run it to the end.

    config: a recipe's name, a YAML file, or a Recipe made in Python.
    """

    def __init__(self, config: str | Path | Recipe, overrides: Overrides | None = None) -> None:
        self.loaded = _load(config, overrides)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.loaded.recipe

    def plan(self) -> Plan:
        """Return what `run` will do; touches nothing. Raises RecipeError with every problem found."""
        from nexa.plan import make_plan
        from nexa.plugins import get_host
        from nexa.settings import get_settings

        return make_plan(self.loaded, host=get_host(), settings=get_settings())

    def launch(self) -> Run:
        """Start the job and return its run at once; it outlives this process."""
        from nexa.launching import launch_plan

        return launch_plan(self.plan())

    def run(self) -> ArtifactMeta:
        """Start the job, wait for its end and return its last checkpoint.

        Raises WorkerError with the reason when the job does not complete.
        """
        run = self.launch()
        wait(run)
        return last_checkpoint(run)


def launch(config: str | Path | Recipe, overrides: Overrides | None = None) -> Run:
    """Start a training job and return its run at once; it outlives this process."""
    return TrainingPipeline(config, overrides).launch()


def run_training_job(config_path: str | Path, overrides: Overrides | None = None) -> ArtifactMeta:
    """Run a training job to its end and return its last checkpoint.

    Raises WorkerError with the reason when the job does not complete.
    """
    return TrainingPipeline(config_path, overrides).run()


def load_training_config(config_path: str | Path, overrides: Overrides | None = None) -> Recipe:
    """Return the resolved recipe. Raises RecipeError with every problem in it."""
    return TrainingPipeline(config_path, overrides).recipe


def save_run_manifest(run_dir: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Write `manifest` as `run_dir/manifest.json`, whole or not at all, and return its path.

    Makes the folder where it is missing. Raises UserError when it can't be written and for values
    that JSON has no form for.
    """
    from nexa.errors import UserError
    from nexa.files import write_json

    path = Path(run_dir) / "manifest.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, manifest)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"can't write {path}: {error}") from error
    return path


def distill_teacher(config_path: str | Path, checkpoint: str | Path | None, output_dir: str | Path) -> Path:
    """Record a teacher's predictions over a recipe's training data and return the index, `distilled_dataset.json`.

    checkpoint: the teacher's folder, or a hub id; None for the recipe's `distill.teacher`, else its model. Goes on
    with a capture that was cut short. Raises RecipeError with every problem found.
    """
    from nexa.errors import RecipeError
    from nexa.plugins import get_host

    overrides = {} if checkpoint is None else {"distill.teacher": str(checkpoint)}
    recipe = _load(config_path, overrides).recipe
    distiller = get_host().create("distiller", recipe.distill.distiller)
    if problems := distiller.check(recipe):
        raise RecipeError(problems)
    return distiller.capture(recipe, Path(output_dir).absolute())


def wait(run: Run, *, timeout: float | None = None) -> RunStatus:
    """Wait until a run has completed and return its status.

    timeout: seconds, None for no limit. Raises TimeoutError, and WorkerError with the reason when
    the run ends in any other way.
    """
    from nexa.errors import WorkerError
    from nexa.runs.state import State

    status = wait_until_ended(run, timeout=timeout)
    if status.state is not State.COMPLETED:
        raise WorkerError(
            f"run {run.run_id} did not complete: {status.state}{f', {status.reason}' if status.reason else ''}",
            hint=f"its log: nexa logs {run.run_id}",
        )
    return status


def wait_until_ended(run: Run, *, timeout: float | None = None) -> RunStatus:
    """Wait until a run has ended in any way and return its status. Raises TimeoutError after `timeout` seconds."""
    from nexa.runs.state import run_status

    deadline = None if timeout is None else time.monotonic() + timeout
    while (status := run_status(run)).active:
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"run {run.run_id} is still {status.state} after {timeout} s")
        time.sleep(_POLL_SECONDS)
    return status


def last_checkpoint(run: Run) -> ArtifactMeta:
    """Return the newest checkpoint of a run. Raises ArtifactError when it has none."""
    from nexa.errors import ArtifactError
    from nexa.runs.actions import open_store

    found = open_store(run).list(f"checkpoints/{run.run_id}")
    checkpoints = [checkpoint for checkpoint in found if checkpoint.damage is None]
    if not checkpoints:
        raise ArtifactError(f"run {run.run_id} has no checkpoint in {run.plan['store']['uri']}")
    return checkpoints[-1].meta


def _load(config: str | Path | Recipe, overrides: Overrides | None) -> LoadedRecipe:
    from nexa.recipe.load import LoadedRecipe, load_recipe
    from nexa.recipe.schema import Recipe

    if isinstance(config, Recipe):
        if overrides:
            raise ValueError("a Recipe made in Python takes no overrides; use recipe.model_copy(update=…)")
        place = Path.cwd() / "<python>"
        return LoadedRecipe(recipe=config, path=place, name=config.run.name or "run", files=(), origins={})
    if isinstance(overrides, Mapping):
        return load_recipe(config, flags=overrides)
    return load_recipe(config, overrides=list(overrides or ()))
