"""What an optimizer that needs an estimate of the Hessian asks of the training loop."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class NeedsCurvature(Protocol):
    """An optimizer that now and then needs the gradient of labels sampled from the model itself.

    The loop asks `curvature_due()` at the start of an optimizer step, with no gradients held. Where it
    is true, the loop runs the step's batch with labels drawn from the model's own predictions,
    leaving the gradient of the *mean* loss in every `parameter.grad` (summed over ranks), calls
    `update_curvature` with the number of labels that mean is over, and clears the gradients.
    """

    def curvature_due(self) -> bool:
        """Whether the next step starts with an estimate."""

    def update_curvature(self, labels: int) -> None:
        """Take the gradients that the parameters hold now as those of sampled labels."""
