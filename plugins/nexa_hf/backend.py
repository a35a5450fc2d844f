"""The Hugging Face backend as the core sees it; the launching machine needs none of its libraries."""

from __future__ import annotations

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
from nexa_hf.methods import find_method
from nexa_torch.backend import CPU_ENVIRONMENT, TorchBackend, missing_packages

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext
    from nexa.worker.place import LauncherRanks

REQUIRED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
"""Modules that training needs."""
FACTORY = "nexa_hf.backend:HfBackend"
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""Nothing is reported to anyone, tokenizers don't start threads before loader processes are forked, and logs hold no
progress bars and no notes on where TRL keeps a trainer."""


class HfBackend(Backend):
    """Trains with transformers.Trainer and TRL."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe here: names, sizes, model files, package versions, devices."""
        from nexa_hf.checks import find_problems

        return find_problems(recipe)

    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """Answer for every leaf field of the recipe schema, once each."""
        from nexa_hf.settings import answer_settings

        return answer_settings(recipe)

    def effective(self, recipe: Recipe) -> Mapping[str, Any]:
        """Return the arguments of transformers and TRL as the worker makes them, and what Nexa heeds beside them."""
        from nexa_hf.effective import effective

        return effective(recipe)

    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """Workers run in this interpreter, one process per GPU or as many as the recipe says."""
        return LaunchSpec(
            python=sys.executable,
            factory=FACTORY,
            processes_per_node=resources.processes_per_node,
            env={**ENVIRONMENT, **({} if resources.gpus_per_node else CPU_ENVIRONMENT)},
        )

    def estimate(self, recipe: Recipe, resources: Resources) -> Estimate:
        """Return parameters, memory and checkpoint size by formula."""
        from nexa_hf.estimate import estimate

        return estimate(recipe, resources)

    def preview(self, recipe: Recipe) -> Preview:
        """Load the data and return the first batch. Raises DataError."""
        _require_packages()
        return find_method(recipe.method).preview(recipe)

    def prepare(self, recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
        """Encode the recipe's data and keep it for runs. Raises DataError, and UserError where a method can't."""
        method = find_method(recipe.method)
        if method.prepare is None:
            raise UserError(f"method {recipe.method!r} of backend hf makes its data ready in the run")
        return method.prepare(recipe, on_progress=on_progress)

    def show_rows(self, recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
        """Training rows as tokens. Raises DataError and UserError."""
        method = find_method(recipe.method)
        if method.show_rows is None:
            raise UserError(f"method {recipe.method!r} of backend hf has no token rows to show")
        return method.show_rows(recipe, start, count)

    def run(self, context: RunContext) -> RunResult:
        """Train; see `nexa.backend.Backend.run`."""
        _require_packages()
        from nexa_hf.run import run_training

        return run_training(context)

    def launcher_ranks(self, environment: Mapping[str, str]) -> LauncherRanks | None:
        """Return this process's place as torchrun, a Slurm step or MPI told it; None where none did."""
        return TorchBackend().launcher_ranks(environment)

    def share(self, text: str | None) -> str:
        """Return rank 0's text on every rank that the launcher started. Raises WorkerError."""
        return TorchBackend().share(text)

    def open_chat(self, checkpoint: Path) -> ChatSession:
        """Load a checkpoint folder, or an adapter with its base model, for `nexa chat`."""
        return TorchBackend().open_chat(checkpoint)

    def export(self, checkpoint: Path, destination: Path, *, merge: bool) -> Mapping[str, Any]:
        """Write a checkpoint's model for transformers or PEFT; see `nexa.backend.Backend.export`."""
        return TorchBackend().export(checkpoint, destination, merge=merge)


def _require_packages() -> None:
    """Raise UserError saying what to install when a needed package is missing."""
    if missing := missing_packages(REQUIRED):
        raise UserError(f"the hf backend needs {', '.join(missing)}", hint="type: pip install 'nexa-train[hf]'")
