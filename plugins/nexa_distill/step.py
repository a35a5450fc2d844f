"""What a student loses on one batch, against recorded predictions or a teacher beside it; the same on every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nexa.errors import UserError
from nexa_distill.aligned import ALIGNED
from nexa_distill.data import RECORDED
from nexa_distill.features import FeatureLoss
from nexa_distill.loss import OnlineLoss, RecordedLoss, SortedLoss, TeacherEntries
from nexa_distill.teacher import TeacherName, load_teacher, processes_that_fit, require_same_tokens
from nexa_torch.loss import IGNORED, fused_head_loss, labelled, logits_loss
from nexa_torch.models import LanguageModel
from nexa_torch.options import torch_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe
    from nexa_distill.dataset import DistilledDataset
    from nexa_torch.data.language import TokenBatch
    from nexa_torch.loss import Objective

Sums = Mapping[str, Tensor]

ONLINE_PART = 5
"""Chunks hold so many times fewer positions where a whole teacher is compared, which takes as many times the memory."""


class StudentLoss:
    """The recipe's loss of a student's batch.

    teacher: the model that predicts in the step; None where predictions were recorded.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: LanguageModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: DistilledDataset | None,
        *,
        teacher_vocabulary: int | None = None,
    ) -> None:
        """dataset: recorded predictions; without them the recipe's teacher is loaded.

        teacher_vocabulary: number of the teacher's tokens where they are others than the student's.

        Raises UserError where teacher and student do not fit together, or memory is too small for the teacher.
        """
        self._section, self._student, self._dataset = recipe.distill, student, dataset
        self._vocabulary, self._teacher_vocabulary = len(tokenizer), teacher_vocabulary
        self._chunk = torch_options(recipe).loss_chunk
        self.teacher: LanguageModel | None = None
        if dataset is not None:
            _require_ids(dataset, student)
            return
        name = TeacherName.of(recipe)
        if teacher_vocabulary is None:
            require_same_tokens(name, tokenizer)
        processes_that_fit(name, 1)
        self.teacher = load_teacher(name)
        _require_numbers(name, self.teacher)
        self._features = FeatureLoss.of(self._section, student, self.teacher)

    def __call__(self, batch: TokenBatch, scale: float, *, alpha: float | None = None) -> tuple[Tensor, Sums]:
        """`scale` × the sum over trained tokens of the mixed loss, and the plain sums of its parts.

        Those are "ce", the cross-entropy, "kl", the divergence, and features by name. With a teacher of other tokens
        "uld" stands for "kl", and "matched" is the number of matched positions. alpha: in place of the recipe's.
        """
        alpha = self._section.alpha if alpha is None else alpha
        if self._dataset is not None:
            return self._recorded(batch, scale, alpha)
        if ALIGNED in batch:
            return self._aligned(batch, scale, alpha)
        return self._online(batch, scale, alpha)

    def _recorded(self, batch: TokenBatch, scale: float, alpha: float) -> tuple[Tensor, Sums]:
        assert self._dataset is not None
        hidden, targets = self._outputs(batch)
        entries = TeacherEntries(**batch[RECORDED], tail=self._dataset.spec.mode == "top_k")
        objective = RecordedLoss(targets, entries, alpha=alpha, temperature=self._section.temperature)
        return self._through_head(hidden, objective, scale), objective.sums

    def _online(self, batch: TokenBatch, scale: float, alpha: float) -> tuple[Tensor, Sums]:
        section, options = self._section, self._features.options
        teacher = self._teacher_at(batch["input_ids"].device)
        inputs = batch["input_ids"], batch["positions"]
        chosen = (batch["labels"] != IGNORED).flatten().nonzero().squeeze(-1)
        with _own_precision(teacher):
            theirs = teacher.outputs(*inputs, **options)
            teacher_logits = _logits_of(teacher, theirs.last_hidden_state, inputs, chosen)
        ours = self._student.outputs(*inputs, **options) if options else None
        hidden, targets = self._outputs(batch, ours.last_hidden_state if ours is not None else None)
        objective = OnlineLoss(
            targets,
            teacher_logits,
            vocabulary=self._vocabulary,
            alpha=alpha,
            temperature=section.temperature,
            divergence=section.divergence,
            jsd_beta=section.jsd_beta,
        )
        loss = self._through_head(hidden, objective, scale)
        if ours is None:
            return loss, objective.sums
        of_features = self._features(ours, theirs, chosen)
        extra = torch.stack([weight * total for weight, total in of_features.values()]).sum() * scale
        return loss + extra, {**objective.sums, **{name: total.detach() for name, (_, total) in of_features.items()}}

    def _aligned(self, batch: TokenBatch, scale: float, alpha: float) -> tuple[Tensor, Sums]:
        assert self._teacher_vocabulary is not None
        aligned: dict[str, Any] = batch[ALIGNED]
        teacher = self._teacher_at(batch["input_ids"].device)
        inputs = aligned["input_ids"], aligned["positions"]
        with _own_precision(teacher):
            theirs = teacher.hidden_states(*inputs)
            teacher_logits = _logits_of(teacher, theirs, inputs, aligned["teacher"])
        hidden, targets = self._outputs(batch)
        objective = SortedLoss(
            targets,
            teacher_logits,
            aligned["student"],
            vocabulary=self._teacher_vocabulary,
            alpha=alpha,
            temperature=self._section.temperature,
        )
        loss = self._through_head(hidden, objective, scale)
        matched = loss.new_tensor(float(len(aligned["student"])))
        return loss, {"uld": torch.zeros_like(matched), **objective.sums, "matched": matched}

    def _teacher_at(self, device: torch.device) -> LanguageModel:
        """The teacher, moved to where the student is."""
        assert self.teacher is not None
        if self.teacher.network.device != device:
            self.teacher.network.to(device)
        return self.teacher

    def _outputs(self, batch: TokenBatch, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the head reads at the labelled positions, or its logits where it is no plain product; and the labels."""
        if not self._student.fused_head:
            hidden = self._student.logits(batch["input_ids"], batch["positions"])
        elif hidden is None:
            hidden = self._student.hidden_states(batch["input_ids"], batch["positions"])
        _, outputs, targets = labelled(hidden, batch["labels"])
        return outputs, targets

    def _through_head(self, outputs: Tensor, objective: Objective, scale: float) -> Tensor:
        chunk = self._chunk if self._dataset is not None else max(1, self._chunk // ONLINE_PART)
        if not self._student.fused_head:
            return logits_loss(outputs, objective, scale=scale, chunk=chunk)
        head: Any = self._student.network.get_output_embeddings()
        return fused_head_loss(outputs, head.weight, objective, bias=head.bias, scale=scale, chunk=chunk)


@contextmanager
def _own_precision(teacher: LanguageModel) -> Iterator[None]:
    """Compute without gradients and as the teacher's weights are, whatever the student trains in."""
    with torch.no_grad(), torch.autocast(teacher.network.device.type, enabled=False):
        yield


def _require_numbers(name: TeacherName, teacher: LanguageModel) -> None:
    """Raise UserError naming the first weight that holds NaN or infinity, which every loss would become."""
    for path, weight in teacher.network.named_parameters():
        if not torch.isfinite(weight.sum()):
            raise UserError(
                f"teacher {name.name} predicts nothing: its weight {path} holds values that are not numbers",
                hint="save or download it anew",
            )


def _require_ids(dataset: DistilledDataset, student: LanguageModel) -> None:
    if dataset.vocabulary > student.vocabulary:
        raise UserError(
            f"{dataset.path} holds predictions over {dataset.vocabulary:,} tokens and the student knows "
            f"{student.vocabulary:,}",
            hint="the student's embedding must have a row for every token of the tokenizer",
        )


def _logits_of(model: LanguageModel, hidden: Tensor, inputs: tuple[Tensor, Tensor], chosen: Tensor) -> Any:
    """A function from a slice of the chosen positions to a model's logits there."""
    if not model.fused_head:
        whole = model.logits(*inputs).flatten(0, -2).index_select(0, chosen)
        return lambda rows: whole[rows]
    head: Any = model.network.get_output_embeddings()
    flat = hidden.flatten(0, -2).index_select(0, chosen)

    def logits(rows: slice) -> Tensor:
        with torch.no_grad():
            return nn.functional.linear(flat[rows], head.weight, head.bias)

    return logits
