"""The task `distill`: a student learns from recorded predictions, or from a teacher in the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nexa.errors import UserError
from nexa_distill.aligned import ALIGNED
from nexa_distill.data import RECORDED, DistillDataModule
from nexa_distill.features import FeatureLoss
from nexa_distill.loss import OnlineLoss, RecordedLoss, SortedLoss, TeacherEntries
from nexa_distill.pruning import prune_blocks
from nexa_distill.teacher import TeacherName, load_teacher, require_same_tokens
from nexa_torch.loss import fused_head_loss, labelled, logits_loss
from nexa_torch.models import LanguageModel
from nexa_torch.options import torch_options
from nexa_torch.tasks.base import StepResult
from nexa_torch.tasks.language_model import LanguageModelTask

if TYPE_CHECKING:
    from nexa.recipe.sections.distill import DistillSection
    from nexa_torch.data.language import TokenBatch
    from nexa_torch.loss import Objective


class DistillTask(LanguageModelTask):
    """A student's next-token prediction, held to the data and to a teacher; evaluation is against the data alone.

    Besides the loss it reports the means over trained tokens of "ce", the cross-entropy, and "kl", the divergence. With
    a teacher of other tokens "uld" stands for "kl", 0 where no position is matched, and "matched" is their share.
    """

    teacher: LanguageModel | None = None
    """The teacher of mode online, from `build_model` on."""

    @property
    def section(self) -> DistillSection:
        """The recipe's `distill`."""
        return self.recipe.distill

    def load_language(self) -> LanguageModel:
        """The student before an adapter is added, made of the blocks that the recipe keeps."""
        language = super().load_language()
        if self.section.student_layers is not None:
            prune_blocks(language.network, self.section.student_layers)
        return language

    def build_model(self) -> nn.Module:
        """The student. Raises UserError where it does not fit to data and teacher."""
        network = super().build_model()
        if self.section.mode == "online":
            name = TeacherName.of(self.recipe)
            if self.section.cross_tokenizer == "refuse":
                require_same_tokens(name, self.module.tokenizer)
            self.teacher = load_teacher(name)
            self._features = FeatureLoss.of(self.section, self.language, self.teacher)
        else:
            self._require_ids()
        return network

    def train_step(self, batch: TokenBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Mean over the batch's trained tokens of the mixed loss, and its parts."""
        count = max(1, batch["trained_tokens"])
        if self.teacher is None:
            loss, sums = self._recorded_loss(batch, 1.0 / count)
        elif ALIGNED in batch:
            loss, sums = self._aligned_loss(batch, 1.0 / count)
        else:
            loss, sums = self._online_loss(batch, 1.0 / count)
        return loss, {name: total / count for name, total in sums.items()}

    def _recorded_loss(self, batch: TokenBatch, scale: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        recorded = batch[RECORDED]
        assert isinstance(self.data_module, DistillDataModule)
        assert self.data_module.recorded is not None
        spec = self.data_module.recorded.dataset.spec
        hidden, targets = self._outputs(batch)
        entries = TeacherEntries(**recorded, tail=spec.mode == "top_k")
        objective = RecordedLoss(targets, entries, alpha=self.section.alpha, temperature=self.section.temperature)
        return self._through_head(hidden, objective, scale), objective.sums

    def _online_loss(self, batch: TokenBatch, scale: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        section = self.section
        teacher = self._teacher_at(batch["input_ids"].device)
        inputs = batch["input_ids"], batch["positions"]
        chosen = (batch["labels"] != -100).flatten().nonzero().squeeze(-1)
        with torch.no_grad():
            theirs = teacher.outputs(*inputs, **self._features.options)
            teacher_logits = _logits_of(teacher, theirs.last_hidden_state, inputs, chosen)
        ours = self.language.outputs(*inputs, **self._features.options) if self._features.options else None
        hidden, targets = self._outputs(batch, ours.last_hidden_state if ours is not None else None)
        objective = OnlineLoss(
            targets,
            teacher_logits,
            vocabulary=len(self.module.tokenizer),
            alpha=section.alpha,
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

    def _aligned_loss(self, batch: TokenBatch, scale: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        aligned: dict[str, Any] = batch[ALIGNED]
        assert isinstance(self.data_module, DistillDataModule)
        assert self.data_module.aligner is not None
        teacher = self._teacher_at(batch["input_ids"].device)
        inputs = aligned["input_ids"], aligned["positions"]
        with torch.no_grad():
            theirs = teacher.hidden_states(*inputs)
            teacher_logits = _logits_of(teacher, theirs, inputs, aligned["teacher"])
        hidden, targets = self._outputs(batch)
        objective = SortedLoss(
            targets,
            teacher_logits,
            aligned["student"],
            vocabulary=self.data_module.aligner.teacher_vocabulary,
            alpha=self.section.alpha,
            temperature=self.section.temperature,
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
        if not self.language.fused_head:
            hidden = self.language.logits(batch["input_ids"], batch["positions"])
        elif hidden is None:
            hidden = self.language.hidden_states(batch["input_ids"], batch["positions"])
        _, outputs, targets = labelled(hidden, batch["labels"])
        return outputs, targets

    def _through_head(self, outputs: Tensor, objective: Objective, scale: float) -> Tensor:
        chunk = torch_options(self.recipe).loss_chunk
        if not self.language.fused_head:
            return logits_loss(outputs, objective, scale=scale, chunk=chunk)
        head: Any = self.language.network.get_output_embeddings()
        return fused_head_loss(outputs, head.weight, objective, bias=head.bias, scale=scale, chunk=chunk)

    def _require_ids(self) -> None:
        assert isinstance(self.data_module, DistillDataModule)
        recorded = self.data_module.recorded
        if recorded is not None and recorded.dataset.vocabulary > self.language.vocabulary:
            raise UserError(
                f"{recorded.dataset.path} holds predictions over {recorded.dataset.vocabulary:,} tokens and the "
                f"student knows {self.language.vocabulary:,}",
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
