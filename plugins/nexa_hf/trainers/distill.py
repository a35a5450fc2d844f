"""transformers' Trainer with a student's loss in the model's own forward pass, and answers written between steps.

TRL's GKD trainer takes no temperature into its loss, draws from the global random numbers, normalises by the answers of
one microbatch, holds the logits of all positions of both models and empties the allocator's cache in each step. So the
loss is Nexa's own, and of TRL there is what writes the answers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from nexa_distill.data import RECORDED
from nexa_hf.students import BY_STUDENT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from nexa_distill.step import StudentLoss
    from nexa_hf.trainers.writer import AnswerWriter

_LOSS = "student_loss"


class DistillTrainer(Trainer):
    """Trains by `student_loss`, the sum over tokens divided by those of all microbatches and processes of a step.

    writer: writes answers to the prompts of some microbatches before each step. Evaluation takes the model's own loss.
    """

    def __init__(
        self, *, student_loss: StudentLoss, network: PreTrainedModel, writer: AnswerWriter | None, **arguments: Any
    ) -> None:
        """network: the model below its adapter."""
        _take_losses(network)
        super().__init__(**arguments)
        self.loss_is_scaled_for_ga = True
        self._student_loss, self._writer = student_loss, writer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The microbatches of a step, those that are to be answered with their answers; and the step's labels."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._writer is not None:
            batches = self._writer.write(self, batches)
        own = torch.tensor([sum(_labelled(batch) for batch in batches)], device=device)
        return batches, self.accelerator.gather(own).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The student's loss in training, the model's own in evaluation."""
        if not self.model.training or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        by_student = inputs.pop(BY_STUDENT, False)
        batch = {
            "input_ids": inputs["input_ids"],
            "positions": inputs["position_ids"],
            "labels": inputs["shift_labels"],
            RECORDED: inputs.get(RECORDED),
        }
        # Processes' gradients are averaged, so each takes its share times their number.
        scale = self.accelerator.num_processes / max(1, int(num_items_in_batch))
        of_batch = functools.partial(self._student_loss, batch, scale, alpha=1.0 if by_student else None)
        loss, sums = model(**{_LOSS: of_batch})
        self.add_figures(_figures(sums, by_student=by_student), _labelled(inputs))  # type: ignore[attr-defined]
        return loss


def _take_losses(network: PreTrainedModel) -> None:
    """Let the model's forward compute a loss that it is given, inside what wraps it: autocast, adapter, DDP."""
    plain = network.forward

    @functools.wraps(plain)
    def forward(*arguments: Any, **keywords: Any) -> Any:
        loss = keywords.pop(_LOSS, None)
        return plain(*arguments, **keywords) if loss is None else loss()

    network.forward = forward


def _labelled(batch: Mapping[str, Any]) -> int:
    return int((batch["shift_labels"] != -100).sum())


def _figures(sums: Mapping[str, Tensor], *, by_student: bool) -> Mapping[str, Tensor]:
    """What is told of a microbatch: a cross-entropy to the student's own words says nothing of the data."""
    return {name: total for name, total in sums.items() if not (by_student and name == "ce")}
