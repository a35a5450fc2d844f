"""The contract of a distiller: capture a teacher's predictions as a dataset artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.errors import Problem
    from nexa.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class CaptureEstimate:
    """Size and time of a capture, quoted before it starts."""

    tokens: int
    bytes: int


class Distiller(ABC):
    """Captures teacher predictions. `nexa.testing.distiller.DistillerContract` tests one."""

    @abstractmethod
    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe from being captured here; empty when nothing does."""

    @abstractmethod
    def estimate(self, recipe: Recipe) -> CaptureEstimate:
        """Return tokens to capture and bytes to write, without running the teacher."""

    @abstractmethod
    def capture(self, recipe: Recipe, output_dir: Path) -> Path:
        """Write the teacher's predictions over the recipe's data below `output_dir`.

        Returns the path of the index file, `distilled_dataset.json`. Continues a capture that was
        cut short; the bytes do not depend on batch size or number of processes.
        """
