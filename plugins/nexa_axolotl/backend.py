"""The Axolotl backend as the core sees it; the launching machine needs neither torch nor Axolotl."""

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
    Preview,
    Resources,
    RunResult,
    SettingAnswer,
)
from nexa.errors import Problem

if TYPE_CHECKING:
    from nexa.generator import TextGenerator
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext

FACTORY = "nexa_axolotl.backend:AxolotlBackend"
PREPARER = "NEXA_PREPARE_PYTHON"
"""Variable of a worker: the interpreter that encodes the data, the one that launched the run."""
_ENVIRONMENT = {
    # Axolotl reports every run to its makers unless it is told not to.
    "AXOLOTL_DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class AxolotlBackend(Backend):
    """Renders a recipe as an Axolotl configuration and trains it in Axolotl's own environment."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe here: own keys that Axolotl does not take, missing packages and models."""
        from nexa_axolotl.checks import find_problems

        return find_problems(recipe)

    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """Answer for every leaf field of the recipe schema, once each."""
        from nexa_axolotl.settings import answer_settings

        return answer_settings(recipe)

    def effective(self, recipe: Recipe) -> Mapping[str, Any]:
        """Return the rendered configuration, and what Nexa does around it."""
        from nexa_axolotl.layout import Layout
        from nexa_axolotl.render import effective

        return effective(recipe, Layout(Path("RUN_DIR")))

    def explain(self, recipe: Recipe, run_dir: Path) -> str:
        """Return the rendered configuration as YAML; `axolotl train` takes it as it is."""
        from nexa_axolotl.layout import Layout
        from nexa_axolotl.render import expected_inputs, render
        from nexa_axolotl.yaml_text import to_yaml

        layout = Layout(run_dir)
        return f"Axolotl trains by {layout.config}\n" + to_yaml(render(recipe, layout, expected_inputs(recipe, layout)))

    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """Workers run in Axolotl's environment; this interpreter encodes the data for them."""
        threads = recipe.cluster.threads_per_process
        return LaunchSpec(
            python=sys.executable,
            factory=FACTORY,
            processes_per_node=resources.processes_per_node,
            env={
                **_ENVIRONMENT,
                PREPARER: sys.executable,
                **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
                **({} if resources.gpus_per_node else {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}),
            },
        )

    def estimate(self, recipe: Recipe, resources: Resources) -> Estimate:
        """Return the number of steps, where the recipe says it."""
        return Estimate(total_steps=recipe.training.max_steps)

    def preview(self, recipe: Recipe) -> Preview:
        """Encode the data as a run would and show its first rows. Raises DataError."""
        from nexa_axolotl.preview import preview

        return preview(recipe)

    def open_chat(self, checkpoint: Path) -> ChatSession:
        """Load a checkpoint, an ordinary transformers or PEFT folder, with the torch backend."""
        from nexa_torch.backend import TorchBackend

        return TorchBackend().open_chat(checkpoint)

    def open_generator(self, checkpoint: Path) -> TextGenerator:
        """Load a checkpoint as `open_chat` does, for `nexa serve`."""
        from nexa_torch.backend import TorchBackend

        return TorchBackend().open_generator(checkpoint)

    def run(self, context: RunContext) -> RunResult:
        """Train; see `nexa.backend.Backend.run`."""
        from nexa_axolotl.run import run_training

        return run_training(context)
