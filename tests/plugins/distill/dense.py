"""The losses of distillation written down plainly over whole logits, and entries made from whole distributions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nexa_distill.loss import RecordedLoss, TeacherEntries
from nexa_torch.loss import fused_head_loss


class Problem:
    """A student's head over n positions and a teacher's probabilities there, all fp64."""

    def __init__(self, n: int = 12, width: int = 5, vocabulary: int = 11, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.hidden = draw(n, width).requires_grad_()
        self.weight = draw(vocabulary, width).requires_grad_()
        self.bias = draw(vocabulary).requires_grad_()
        self.teacher_logits = 2 * draw(n, vocabulary)
        self.targets = torch.randint(0, vocabulary, (n,), generator=generator)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias

    def teacher(self, temperature: float = 1.0) -> Tensor:
        return torch.softmax(self.teacher_logits / temperature, -1)

    def logits(self) -> Tensor:
        return functional.linear(self.hidden, self.weight, self.bias)

    def dense(self, alpha: float, temperature: float) -> Tensor:
        """Σ (1 − α) CE + α T² KL(p ‖ q)."""
        p = self.teacher(temperature)
        kl = functional.kl_div(torch.log_softmax(self.logits() / temperature, -1), p, reduction="sum")
        ce = functional.cross_entropy(self.logits(), self.targets, reduction="sum")
        return (1 - alpha) * ce + alpha * temperature**2 * kl

    def fused(self, entries: TeacherEntries, alpha: float, temperature: float, *, chunk: int = 5) -> Tensor:
        loss = RecordedLoss(self.targets, entries, alpha=alpha, temperature=temperature)
        return fused_head_loss(self.hidden, self.weight, loss, bias=self.bias, scale=1.0, chunk=chunk)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self.inputs)


def entries_of(weights: Tensor, *, tail: bool = False) -> TeacherEntries:
    """Every weight above 0 of [n, vocabulary] as an entry."""
    rows, ids = (weights > 0).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(weights))
    return TeacherEntries(rows=rows, ids=ids, weights=weights[rows, ids], ends=np.cumsum(counts.numpy()), tail=tail)


def top(p: Tensor, k: int, *, tail: bool = True) -> TeacherEntries:
    """The k largest of each row."""
    values, ids = p.topk(k, -1)
    return entries_of(torch.zeros_like(p).scatter_(1, ids, values), tail=tail)
