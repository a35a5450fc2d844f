"""The distiller `logits` as the core sees it; light until it captures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.distiller import CaptureEstimate, CaptureProgress, Comparison, Distiller, WrittenText
from nexa.errors import NexaError, Problem, RecipeError, UserError
from nexa_torch.backend import require_packages

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_distill.plan import CapturePlan


class LogitDistiller(Distiller):
    """Records a language model's next-token predictions over a recipe's training rows."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what keeps this recipe from being captured: packages, teacher, data, tokenizers."""
        try:
            require_packages()
            self._plan(recipe)
        except RecipeError as error:
            return error.problems
        except NexaError as error:
            return [Problem(message=error.message, hint=error.hint)]
        return []

    def estimate(self, recipe: Recipe) -> CaptureEstimate:
        """Return tokens to record and about how many bytes they take; prepares the data, runs no model."""
        require_packages()
        plan = self._plan(recipe)
        return CaptureEstimate(tokens=plan.recorded, bytes=plan.expected_bytes, key=plan.key)

    def capture(
        self,
        recipe: Recipe,
        output_dir: Path,
        *,
        on_progress: CaptureProgress | None = None,
    ) -> Path:
        """See `Distiller.capture`. Of several ranks, those that finish early return the index's future path."""
        require_packages()
        from nexa_distill.capture import capture
        from nexa_distill.dataset import INDEX
        from nexa_torch.backend import TorchBackend

        ranks = TorchBackend().launcher_ranks(os.environ)
        index = capture(
            self._plan(recipe, on_progress),
            output_dir,
            processes=recipe.distill.capture.processes,
            gpus=_gpus(recipe),
            rank=ranks.rank if ranks else 0,
            world_size=ranks.world_size if ranks else 1,
            on_progress=on_progress,
        )
        return index or output_dir / INDEX

    def verify(self, dataset: Path) -> Sequence[str]:
        """Return what is wrong with a dataset's files, one line each; empty when it is whole. Raises DataError."""
        from nexa_distill.dataset import damages, read_index

        return list(damages(*read_index(dataset)))

    def compare(self, recipe: Recipe, student: Path, *, on_progress: CaptureProgress | None = None) -> Comparison:
        """See `Distiller.compare`."""
        require_packages()
        from nexa_distill.compare import compare

        return compare(recipe, student, on_progress=on_progress)

    def export(self, dataset: Path, output: Path, *, form: str, on_progress: CaptureProgress | None = None) -> None:
        """Write a dataset as "axolotl" or "json". Raises UserError."""
        from nexa_distill.export import export

        export(dataset, output, form=form, on_progress=on_progress)

    def write_text(
        self, recipe: Recipe, output: Path, *, dry_run: bool = False, on_progress: CaptureProgress | None = None
    ) -> WrittenText:
        """See `Distiller.write_text`."""
        require_packages()
        from nexa_distill.writing import write_text

        return write_text(recipe, output, dry_run=dry_run, on_progress=on_progress)

    def _plan(self, recipe: Recipe, on_progress: CaptureProgress | None = None) -> CapturePlan:
        from nexa_distill.plan import make_plan

        return make_plan(recipe, gpus=_gpus(recipe), on_progress=on_progress)


def _gpus(recipe: Recipe) -> int:
    """GPUs to capture on: as many as the recipe asks for. Raises UserError where there are fewer."""
    wanted = recipe.cluster.gpus_per_node
    if not wanted:
        return 0
    import torch

    if torch.cuda.device_count() < wanted:
        raise UserError(
            f"cluster.gpus_per_node is {wanted} and this machine has {torch.cuda.device_count()}",
            hint="set cluster.gpus_per_node=0 to capture on CPU",
        )
    return wanted
