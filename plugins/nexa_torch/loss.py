"""Cross-entropy of an output head, fused with the head: no tensor of all logits ever exists.

Gradients are computed in the forward pass, chunk by chunk, from logits that are then dropped; so a
step needs chunk × vocabulary floats instead of tokens × vocabulary. Only positions that carry loss
are multiplied at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def _chunk_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits of a chunk; softmax and log-sum-exp of half-precision products are taken in fp32."""
    logits = functional.linear(hidden, weight, bias)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _losses(logits: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """Loss of each row from logits and their softmax.

    The log-sum-exp is recovered from the largest logit, whose probability is at least 1 ÷ vocabulary
    and never underflows.
    """
    log_sum_exp = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
    return log_sum_exp - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T + bias`, times `scale`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, chunk: int
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        compute = (
            torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        )
        dtype = compute or hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            total = hidden.new_zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
            grad_hidden = torch.empty_like(hidden) if need_hidden else None
            grad_weight = None
            grad_bias = torch.zeros_like(bias) if need_bias else None
            for start in range(0, len(targets), chunk):
                rows = slice(start, start + chunk)
                part = hidden[rows].to(dtype)
                logits = _chunk_logits(part, cast_weight, cast_bias)
                gradient = torch.softmax(logits, dim=-1)
                total += _losses(logits, gradient, targets[rows]).sum()
                gradient[torch.arange(len(part), device=part.device), targets[rows]] -= 1.0
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = (gradient @ cast_weight) * scale
                if need_weight:
                    grad_weight = _accumulate(grad_weight, gradient, part * scale, weight.dtype)
        if grad_bias is not None:
            grad_bias *= scale
        if need_weight and grad_weight is None:
            grad_weight = torch.zeros_like(weight)
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


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, scale: float = 1.0, chunk: int = 512
) -> Tensor:
    """Return `scale` × the sum over positions of the cross-entropy of an output head.

    hidden: [..., width]; weight: [vocabulary, width]; targets: [...], token ids, IGNORED where no loss
    is taken. Under autocast the products run in its dtype and the rest in fp32. Without gradients
    enabled only the loss is computed. The result does not depend on `chunk` beyond rounding.
    """
    trained = (targets != IGNORED).flatten().nonzero().squeeze(-1)
    hidden = hidden.flatten(0, -2).index_select(0, trained)
    targets = targets.flatten().index_select(0, trained)
    if torch.is_grad_enabled():
        return _FusedLinearCrossEntropy.apply(hidden, weight, bias, targets, scale, chunk)
    total = hidden.new_zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
        logits = _chunk_logits(hidden[rows], weight, bias)
        total += functional.cross_entropy(logits, targets[rows], reduction="sum")
    return total * scale


def cross_entropy_of_logits(logits: Tensor, targets: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return `scale` × the summed cross-entropy of whole logits, for heads that are not plain products."""
    flat = logits.flatten(0, -2).float()
    return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum") * scale
