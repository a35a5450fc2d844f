"""Losses of an output head, fused with the head: no tensor of all logits ever exists.

Gradients are computed in the forward pass, chunk by chunk, from logits that are then dropped; so a
step needs chunk × vocabulary floats instead of tokens × vocabulary. Only positions that carry loss
are multiplied at all.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


_UNDERFLOWN = 1e-30
"""Below this a probability in fp32 may have lost digits, and its logarithm with them."""


class Head:
    """An output head at work on chunks of positions, in buffers that all chunks share.

    Fresh memory for every chunk would cost a page fault for every 4 KB of it, as long as the softmax takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self._products = weight.new_empty((rows, len(weight)), dtype=dtype)
        # Softmax and log-sum-exp of half-precision products are taken in fp32.
        half = dtype in (torch.bfloat16, torch.float16)
        self._wide = torch.empty_like(self._products, dtype=torch.float32) if half else self._products

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of a chunk, in a buffer that the next call overwrites."""
        products, wide = self._products[: len(hidden)], self._wide[: len(hidden)]
        if self.bias is None:
            torch.mm(hidden, self.weight.T, out=products)
        else:
            torch.addmm(self.bias, hidden, self.weight.T, out=products)
        return wide if wide.dtype == products.dtype else wide.copy_(products)

    def fresh_logits(self, hidden: Tensor) -> Tensor:
        """Logits of a few positions, in memory of their own."""
        logits = functional.linear(hidden, self.weight, self.bias)
        return logits.to(self._wide.dtype)

    def narrow(self, gradient: Tensor) -> Tensor:
        """The gradient of a chunk's logits in the dtype of products."""
        products = self._products[: len(gradient)]
        return gradient if gradient.dtype == products.dtype else products.copy_(gradient)

    def losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each position of a chunk, and the probabilities of all tokens there."""
        logits = self.logits(hidden)
        if logits.device.type != "cpu":
            probabilities = torch.softmax(logits, dim=-1)
            return _from_largest(logits, probabilities, targets), probabilities
        # One pass over memory: each row of logits is replaced while it is in the cache.
        probabilities = torch.softmax(logits, dim=-1, out=logits)
        of_targets = probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        losses = of_targets.log().neg_()
        if (lost := (of_targets < _UNDERFLOWN).nonzero().squeeze(-1)).numel():
            losses[lost] = functional.cross_entropy(self.fresh_logits(hidden[lost]), targets[lost], reduction="none")
        return losses, probabilities


def _from_largest(logits: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """Loss of each row from logits and their softmax, without a look at values that would hold up a GPU.

    The log-sum-exp is recovered from the largest logit, whose probability is at least 1 ÷ vocabulary
    and never underflows.
    """
    log_sum_exp = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
    return log_sum_exp - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class GivenLogits(Head):
    """A head whose logits are computed already: what stands for `hidden` is the logits themselves."""

    def __init__(self) -> None:
        pass

    def logits(self, hidden: Tensor) -> Tensor:
        """A copy of the logits, which the caller may change."""
        return self.fresh_logits(hidden)

    def fresh_logits(self, hidden: Tensor) -> Tensor:
        """The same."""
        return hidden.to(_sum_dtype(hidden), copy=True)


class Objective(Protocol):
    """A loss that is a sum over positions, each a function of its logits."""

    def __call__(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Loss of each position of a chunk, [n], and its gradient with respect to the logits, [n, vocabulary].

        hidden: of the chunk, in the head's dtype; rows: its place among all positions. The gradient may lie in a
        buffer that the next call overwrites.
        """


class CrossEntropy:
    """Cross-entropy to `targets`, int64 [n], none of them IGNORED."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __call__(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        targets = self.targets[rows]
        losses, gradient = head.losses(hidden, targets)
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1.0
        return losses, gradient


class _FusedHead(torch.autograd.Function):
    """Sum of an objective over the positions of `hidden @ weight.T + bias`, times `scale`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, objective: Objective, scale: float, chunk: int
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype = _product_dtype(hidden)
        # A mean's factor can push fp16 below its smallest number, so it is applied in fp32, at the end.
        early, late = (1.0, scale) if dtype == torch.float16 else (scale, 1.0)
        with torch.autocast(hidden.device.type, enabled=False):
            head = Head(weight, bias, dtype, min(chunk, len(hidden)))
            total = hidden.new_zeros((), dtype=_sum_dtype(hidden))
            grad_hidden = torch.empty_like(hidden) if need_hidden else None
            grad_weight = None
            grad_bias = torch.zeros_like(bias) if need_bias else None
            for start in range(0, len(hidden), chunk):
                rows = slice(start, start + chunk)
                part = hidden[rows].to(dtype)
                losses, gradient = objective(head, part, rows)
                total += losses.sum()
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = head.narrow(gradient)
                if grad_hidden is not None:
                    grad_hidden[rows] = gradient @ head.weight
                if need_weight:
                    grad_weight = _accumulate(grad_weight, gradient, part * early, weight.dtype)
        if grad_hidden is not None:
            grad_hidden *= scale
        if grad_bias is not None:
            grad_bias *= scale
        if need_weight:
            grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight
            grad_weight = grad_weight if late == 1.0 else grad_weight.mul_(late)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        # The usual upstream gradient is 1; on CPU finding that out saves a pass over the weight's size.
        if grad_output.device.type != "cpu" or grad_output.item() != 1.0:
            gradients = tuple(None if gradient is None else gradient * grad_output for gradient in gradients)
        return (*gradients, None, None, None)


def _accumulate(total: Tensor | None, gradient: Tensor, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Add gradientᵀ · hidden to the running weight gradient, in the weight's own precision."""
    if total is None:
        return (gradient.T @ hidden).to(dtype)
    if gradient.dtype == dtype:
        return total.addmm_(gradient.T, hidden)
    return total.add_(gradient.T @ hidden)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype that matrix products of `hidden` are computed in here: autocast's, or its own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _sum_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def fused_head_loss(
    hidden: Tensor, weight: Tensor, objective: Objective, *, bias: Tensor | None = None, scale: float, chunk: int
) -> Tensor:
    """Return `scale` × the sum of an objective over the positions of an output head, in fp32.

    hidden: [n, width]; weight: [vocabulary, width]. Under autocast the products run in its dtype and the rest in fp32.
    Without gradients enabled only the loss is kept. The result does not depend on `chunk` beyond rounding.
    """
    if torch.is_grad_enabled():
        return _FusedHead.apply(hidden, weight, bias, objective, scale, chunk)
    total = hidden.new_zeros((), dtype=_sum_dtype(hidden))
    dtype = _product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        head = Head(weight, bias, dtype, min(chunk, len(hidden)))
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            total += objective(head, hidden[rows].to(dtype), rows)[0].sum()
    return total * scale


class _WholeLogits(torch.autograd.Function):
    """Sum of an objective over the positions of whole logits, times `scale`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, objective: Objective, scale: float, chunk: int) -> Tensor:
        total = logits.new_zeros((), dtype=_sum_dtype(logits))
        gradients = torch.empty_like(logits)
        head = GivenLogits()
        with torch.autocast(logits.device.type, enabled=False):
            for start in range(0, len(logits), chunk):
                rows = slice(start, start + chunk)
                losses, gradient = objective(head, logits[rows], rows)
                total += losses.sum()
                gradients[rows] = gradient * scale
        ctx.save_for_backward(gradients)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * grad_output, None, None, None


def logits_loss(logits: Tensor, objective: Objective, *, scale: float, chunk: int) -> Tensor:
    """Return `scale` × the sum of an objective over whole logits [n, vocabulary], of heads that are no plain product.

    For the rest see `fused_head_loss`.
    """
    return _WholeLogits.apply(logits, objective, scale, chunk)


def labelled(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flat positions that carry loss, and what `hidden` [..., width] and `targets` [...] hold there."""
    trained = (targets != IGNORED).flatten().nonzero().squeeze(-1)
    return trained, hidden.flatten(0, -2).index_select(0, trained), targets.flatten().index_select(0, trained)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, scale: float = 1.0, chunk: int = 512
) -> Tensor:
    """Return `scale` × the sum over positions of the cross-entropy of an output head.

    hidden: [..., width]; weight: [vocabulary, width]; targets: [...], token ids, IGNORED where no loss
    is taken. For the rest see `fused_head_loss`.
    """
    _, hidden, targets = labelled(hidden, targets)
    return fused_head_loss(hidden, weight, CrossEntropy(targets), bias=bias, scale=scale, chunk=chunk)


@torch.no_grad()
def sample_targets(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, chunk: int = 512
) -> Tensor:
    """Draw a token from the model's own prediction at every position of `targets` that is not IGNORED.

    Shapes as for `linear_cross_entropy`. Uses the device's default generator.
    """
    trained, hidden, own = labelled(hidden, targets)
    head = Head(weight, bias, _product_dtype(hidden), min(chunk, len(own)))
    sampled = targets.flatten().clone()
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(own), chunk):
            part = hidden[start : start + chunk].to(head.weight.dtype)
            _, probabilities = head.losses(part, own[start : start + chunk])
            sampled[trained[start : start + chunk]] = torch.multinomial(probabilities, 1).squeeze(-1)
    return sampled.view_as(targets)


def cross_entropy_of_logits(logits: Tensor, targets: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return `scale` × the summed cross-entropy of whole logits, for heads that are not plain products."""
    flat = logits.flatten(0, -2).float()
    return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum") * scale
