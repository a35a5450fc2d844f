"""The contract of a distiller: record a teacher's predictions as a dataset, and look at dataset and students."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa.errors import Problem
    from nexa.recipe.schema import Recipe

DATASET_INDEX = "distilled_dataset.json"
CaptureProgress = Callable[[str, int, "int | None"], None]
"""Called with a phase ("loading", "tokenizing", "capturing", "waiting"), how much is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class CaptureEstimate:
    """Size of a capture, quoted before it starts: predictions to record, and about how many bytes they take.

    key: names what is captured, equal for equal datasets; empty where a distiller does not say.
    """

    tokens: int
    bytes: int
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How sure a model is and how often it is right, in bins of equal width from 0 to 1.

    confidence, accuracy: means within each bin, 0 where it is empty; counts: positions in it. error: expected
    calibration error, the mean of |accuracy − confidence| over positions.
    """

    confidence: Sequence[float]
    accuracy: Sequence[float]
    counts: Sequence[int]
    error: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A student beside its teacher on the same positions.

    kl: mean KL(teacher ‖ student), nats. agreement: share of positions where both find one token likeliest.
    student_loss, teacher_loss: cross-entropy to the data, nats; their perplexities are e to them.
    """

    teacher: str
    student: str
    positions: int
    kl: float
    agreement: float
    student_loss: float
    teacher_loss: float
    student_calibration: Calibration
    teacher_calibration: Calibration


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """What became of the prompts of a recipe. left_out: how many prompts, by the last reason."""

    prompts: int
    rows: int
    requests: int
    left_out: Mapping[str, int]
    output: Path


class Distiller(ABC):
    """Captures teacher predictions. `nexa.testing.distiller.DistillerContract` tests one.

    `verify`, `compare`, `export` and `write_text` (capability "text") are for distillers that declare it.
    """

    @abstractmethod
    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe from being captured here; empty when nothing does."""

    @abstractmethod
    def estimate(self, recipe: Recipe) -> CaptureEstimate:
        """Return tokens to capture and bytes to write, without running the teacher."""

    @abstractmethod
    def capture(self, recipe: Recipe, output_dir: Path, *, on_progress: CaptureProgress | None = None) -> Path:
        """Write the teacher's predictions over the recipe's data below `output_dir`.

        Returns the path of the index file, `distilled_dataset.json`, which names the distiller as "distiller".
        Continues a capture that was cut short; the bytes do not depend on batch size or number of processes.
        """

    def verify(self, dataset: Path) -> Sequence[str]:
        """Return what is wrong with a dataset's files, one line each; empty when it is whole. Raises DataError."""
        raise self._unable("verify datasets")

    def compare(self, recipe: Recipe, student: Path, *, on_progress: CaptureProgress | None = None) -> Comparison:
        """Return how a student's checkpoint does beside the recipe's teacher on its held-out rows.

        Raises UserError where there are none, or where the two can't be compared.
        """
        raise self._unable("compare students")

    def export(self, dataset: Path, output: Path, *, form: str, on_progress: CaptureProgress | None = None) -> None:
        """Write a dataset in another form. Raises UserError for a form that there is not."""
        raise self._unable("export datasets")

    def write_text(
        self, recipe: Recipe, output: Path, *, dry_run: bool = False, on_progress: CaptureProgress | None = None
    ) -> WrittenText:
        """Let the teacher answer the recipe's prompts and write what passes as rows for method sft.

        Goes on where it was stopped. dry_run: count prompts and ask nothing. Raises UserError and WorkerError.
        """
        raise self._unable("write text")

    def _unable(self, what: str) -> UserError:
        return UserError(f"the distiller {type(self).__name__} does not {what}")
