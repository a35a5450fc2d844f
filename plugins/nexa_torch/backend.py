"""The PyTorch backend as the core sees it; the launching machine needs no torch for its first half."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import (
    Backend,
    ChatSession,
    Estimate,
    LaunchSpec,
    Preparation,
    PrepareProgress,
    Preview,
    PreviewToken,
    Resources,
    RunResult,
    SettingAnswer,
)
from nexa.errors import Problem, UserError

if TYPE_CHECKING:
    from nexa.generator import TextGenerator
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext
    from nexa.worker.place import LauncherRanks

FACTORY = "nexa_torch.backend:TorchBackend"
CPU_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait for one another sleep instead of spinning: as fast on an idle machine, and several
times faster on one that has other work, where a spinning thread keeps the awaited one from running."""
_REQUIRED = ("torch", "transformers", "safetensors", "numpy")
_FOR_DATA = ("transformers", "numpy")


class TorchBackend(Backend):
    """Trains causal language models with Nexa's own loop."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe here: names, sizes, model files, missing packages and devices."""
        from nexa_torch.checks import find_problems

        return find_problems(recipe)

    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """Answer for every leaf field of the recipe schema, once each."""
        from nexa_torch.settings import answer_settings

        return answer_settings(recipe)

    def effective(self, recipe: Recipe) -> Mapping[str, Any]:
        """Return the recipe's fields that count, defaults filled in: the engine reads the recipe itself."""
        from nexa_torch.effective import effective

        return effective(recipe)

    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """Workers run in this interpreter, one process per GPU or as many as the recipe says."""
        return LaunchSpec(
            python=sys.executable,
            factory=FACTORY,
            processes_per_node=resources.processes_per_node,
            env={} if resources.gpus_per_node else CPU_ENVIRONMENT,
        )

    def estimate(self, recipe: Recipe, resources: Resources) -> Estimate:
        """Return parameters, memory and checkpoint size by formula."""
        from nexa_torch.estimate import estimate
        from nexa_torch.tasks.registry import is_language

        if not is_language(recipe.method):
            note = f"the size of task {recipe.method} is known when its model is built"
            return Estimate(total_steps=recipe.training.max_steps, notes=[note])
        return estimate(recipe, resources)

    def preview(self, recipe: Recipe) -> Preview:
        """Load the data and return the first batch. Raises DataError."""
        require_packages()
        from nexa_torch.data.preview import preview, preview_task
        from nexa_torch.tasks.registry import is_language

        return preview(recipe) if is_language(recipe.method) else preview_task(recipe)

    def prepare(self, recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
        """Encode and pack the recipe's data, and keep it for runs. Raises DataError."""
        _require_rows(recipe)
        from nexa_torch.data.display import describe
        from nexa_torch.data.prepare import prepare_data

        return describe(prepare_data(recipe, on_progress=on_progress))

    def show_rows(self, recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
        """Training rows as tokens. Raises DataError and UserError."""
        _require_rows(recipe)
        from nexa_torch.data.display import show_rows

        return show_rows(recipe, start, count)

    def run(self, context: RunContext) -> RunResult:
        """Train; see `nexa.backend.Backend.run`."""
        require_packages()
        from nexa_torch.run import run_training

        return run_training(context)

    def launcher_ranks(self, environment: Mapping[str, str]) -> LauncherRanks | None:
        """Return this process's place as torchrun, a Slurm step or MPI told it; None where none did.

        A process of a Slurm allocation that no `srun` started is one alone. Raises UserError.
        """
        from nexa.worker.place import LauncherRanks
        from nexa_torch.distributed.environment import detect_environment

        place = detect_environment(environment)
        if place.source == "single" or (place.source == "Slurm" and "SLURM_STEP_ID" not in environment):
            return None
        return LauncherRanks(
            rank=place.rank,
            local_rank=place.local_rank,
            world_size=place.world_size,
            local_world_size=place.local_world_size,
        )

    def share(self, text: str | None) -> str:
        """Return rank 0's text on every rank that the launcher started. Raises WorkerError."""
        require_packages()
        from nexa_torch.distributed.sharing import share

        return share(text)

    def open_chat(self, checkpoint: Path) -> ChatSession:
        """Load a checkpoint folder, or an adapter with its base model, for `nexa chat`.

        Raises UserError for a checkpoint of a task that is no language model.
        """
        _ready_to_talk(checkpoint)
        from nexa_torch.chat import open_chat

        return open_chat(checkpoint)

    def export(self, checkpoint: Path, destination: Path, *, merge: bool) -> Mapping[str, Any]:
        """Write a checkpoint's model for transformers or PEFT; see `nexa.backend.Backend.export`."""
        require_packages()
        from nexa_torch.export import export_model

        return export_model(checkpoint, destination, merge=merge)

    def open_generator(self, checkpoint: Path) -> TextGenerator:
        """Load a checkpoint folder, or an adapter with its base model, for `nexa serve`. Raises UserError."""
        _ready_to_talk(checkpoint)
        from nexa_torch.serving import open_generator

        return open_generator(checkpoint)


def _ready_to_talk(checkpoint: Path) -> None:
    """Make sure that a checkpoint is a language model's and can be loaded here. Raises UserError."""
    require_packages()
    # OpenMP reads it once, when torch is first imported.
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from nexa_torch.tasks.registry import TASK_FILE

    if (checkpoint / TASK_FILE).is_file():
        task = json.loads((checkpoint / TASK_FILE).read_text(encoding="utf-8")).get("task")
        raise UserError(f"{checkpoint} was trained by task {task}, which does not talk")


def missing_packages(names: Sequence[str] = _REQUIRED) -> list[str]:
    """Those of the named packages that are not installed; nothing is imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_packages(names: Sequence[str] = _REQUIRED) -> None:
    """Raise UserError saying what to install when a needed package is missing."""
    missing = missing_packages(names)
    if missing:
        raise UserError(f"the torch backend needs {', '.join(missing)}", hint="type: pip install 'nexa-train[torch]'")


def _require_rows(recipe: Recipe) -> None:
    """Raise UserError for a task without token rows, or where a package is missing that makes them."""
    from nexa_torch.tasks.registry import is_language

    if not is_language(recipe.method):
        raise UserError(f"method {recipe.method!r} has no token rows; its data module makes its data in the run")
    require_packages(_FOR_DATA)
