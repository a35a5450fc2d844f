"""The task `distill`: a student learns from recorded predictions, or from a teacher in the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from nexa_distill.data import DistillDataModule
from nexa_distill.pruning import prune_blocks
from nexa_distill.step import StudentLoss
from nexa_torch.tasks.base import StepResult
from nexa_torch.tasks.language_model import LanguageModelTask

if TYPE_CHECKING:
    from nexa_torch.data.language import TokenBatch
    from nexa_torch.models import LanguageModel


class DistillTask(LanguageModelTask):
    """A student's next-token prediction, held to the data and to a teacher; evaluation is against the data alone.

    Besides the loss it reports the means over trained tokens of "ce", the cross-entropy, and "kl", the divergence. With
    a teacher of other tokens "uld" stands for "kl", 0 where no position is matched, and "matched" is their share.
    """

    student_loss: StudentLoss
    """The loss of a batch, with the teacher of mode online in it, from `build_model` on."""

    def load_language(self) -> LanguageModel:
        """The student before an adapter is added, made of the blocks that the recipe keeps."""
        language = super().load_language()
        if self.recipe.distill.student_layers is not None:
            prune_blocks(language.network, self.recipe.distill.student_layers)
        return language

    def build_model(self) -> nn.Module:
        """The student. Raises UserError where it does not fit to data and teacher."""
        network = super().build_model()
        assert isinstance(self.data_module, DistillDataModule)
        recorded = self.data_module.recorded
        dataset = None if recorded is None else recorded.dataset
        aligner = self.data_module.aligner
        self.student_loss = StudentLoss(
            self.recipe,
            self.language,
            self.module.tokenizer,
            dataset,
            teacher_vocabulary=None if aligner is None else aligner.teacher_vocabulary,
        )
        return network

    def train_step(self, batch: TokenBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Mean over the batch's trained tokens of the mixed loss, and its parts."""
        count = max(1, batch["trained_tokens"])
        loss, sums = self.student_loss(batch, 1.0 / count)
        return loss, {name: total / count for name, total in sums.items()}
