"""A student beside its teacher, on held-out rows, both whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nexa.distiller import Calibration, CaptureProgress, Comparison
from nexa.errors import UserError
from nexa_distill.teacher import TeacherName, load_teacher, require_same_tokens
from nexa_torch.chat import load_checkpoint
from nexa_torch.data.prepare import prepare_data
from nexa_torch.data.rows import IGNORED, Rows
from nexa_torch.models import LanguageModel, quiet_libraries, wrap
from nexa_torch.sources import ModelSource

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

_BINS = 10
_CHUNK = 128


@dataclass
class _Sums:
    """Sums over positions. Per bin of confidence: positions, Σ confidence, positions that were right."""

    loss: float = 0.0
    bins: np.ndarray = field(default_factory=lambda: np.zeros((3, _BINS)))

    def add(self, log_p: Tensor, targets: Tensor) -> Tensor:
        """Take in some positions; returns their likeliest tokens."""
        self.loss -= log_p.gather(1, targets.unsqueeze(1)).double().sum().item()
        largest, likeliest = log_p.max(-1)
        confidence = largest.exp().double().numpy()
        which = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        right = (likeliest == targets).numpy().astype(float)
        for row, values in enumerate((np.ones_like(confidence), confidence, right)):
            self.bins[row] += np.bincount(which, values, minlength=_BINS)
        return likeliest

    def calibration(self) -> Calibration:
        """Means within bins, and the expected calibration error (Guo et al. 2017, arXiv 1706.04599)."""
        counts, confidence, right = self.bins
        held = np.maximum(counts, 1.0)
        return Calibration(
            confidence=(confidence / held).tolist(),
            accuracy=(right / held).tolist(),
            counts=[int(count) for count in counts],
            error=float(np.abs(right - confidence).sum() / max(1.0, counts.sum())),
        )


def compare(recipe: Recipe, student: Path, *, on_progress: CaptureProgress | None = None) -> Comparison:
    """See `nexa.distiller.Distiller.compare`."""
    quiet_libraries()
    teacher = TeacherName.of(recipe)
    teacher.source()
    data = prepare_data(recipe, on_progress=on_progress)
    rows = data.validation
    if rows is None:
        raise UserError(
            "the recipe holds nothing out to compare on",
            hint="set data.validation.fraction or data.validation.remote_uri",
        )
    require_same_tokens(teacher, data.tokenizer)
    ours, theirs = _student(student), load_teacher(teacher)
    kl, same, positions = 0.0, 0, 0
    of_student, of_teacher = _Sums(), _Sums()
    for number in range(len(rows)):
        if on_progress is not None:
            on_progress("comparing", number, len(rows))
        for log_q, log_p, targets in _positions(rows, number, ours, theirs, len(data.tokenizer)):
            kl += torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).double().sum().item()
            agree = of_student.add(log_q, targets) == of_teacher.add(log_p, targets)
            same += int(agree.sum())
            positions += len(targets)
    return Comparison(
        teacher=teacher.name,
        student=str(student),
        positions=positions,
        kl=kl / positions,
        agreement=same / positions,
        student_loss=of_student.loss / positions,
        teacher_loss=of_teacher.loss / positions,
        student_calibration=of_student.calibration(),
        teacher_calibration=of_teacher.calibration(),
    )


def _student(folder: Path) -> LanguageModel:
    network = load_checkpoint(folder)
    network.eval().requires_grad_(False)
    return wrap(network, ModelSource(kind="folder", name=str(folder), location=str(folder)))


@torch.no_grad()
def _positions(
    rows: Rows, number: int, student: LanguageModel, teacher: LanguageModel, vocabulary: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Log probabilities of student and teacher, and labels, at the labelled positions of a row, some at a time."""
    batch = rows.take([number])
    where = torch.from_numpy(np.flatnonzero(batch.labels[0] != IGNORED))
    targets = torch.from_numpy(batch.labels[0].astype(np.int64))[where]
    ids, places = (torch.from_numpy(part.astype(np.int64)) for part in (batch.input_ids, batch.positions))
    hidden = [_inputs_of_head(model, ids, places)[0].index_select(0, where) for model in (student, teacher)]
    for start in range(0, len(where), _CHUNK):
        span = slice(start, start + _CHUNK)
        log_q, log_p = (
            torch.log_softmax(_logits(model, part[span])[:, :vocabulary].float(), -1)
            for model, part in zip((student, teacher), hidden, strict=True)
        )
        yield log_q, log_p, targets[span]


def _inputs_of_head(model: LanguageModel, ids: Tensor, places: Tensor) -> Tensor:
    return model.hidden_states(ids, places) if model.fused_head else model.logits(ids, places)


def _logits(model: LanguageModel, inputs: Tensor) -> Tensor:
    if not model.fused_head:
        return inputs
    head = model.network.get_output_embeddings()
    return torch.nn.functional.linear(inputs, head.weight, head.bias)  # type: ignore[arg-type]
