"""RMS norms in half the passes over memory that the same norm takes as a chain of operations.

RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467): y = w · x · r with r = (mean x² + eps)^(-1/2) over the last
dimension. Only x and r are kept for the backward pass.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_EPSILONS = ("variance_epsilon", "eps")
_DTYPES = (torch.float32, torch.float64)
_TOLERANCE = 1e-5


class _RMSNorm(torch.autograd.Function):
    """x: [..., width], weight: [width], both of one dtype of at least 32 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            products = (gradient * x).flatten(0, -2)
            of_weight = products.T.mv(scale.flatten()) if ctx.needs_input_grad[1] else None
            if not ctx.needs_input_grad[0]:
                return None, of_weight, None
            # r · (w · g - x · r² · mean(w · g · x)), the mean as one product of a matrix with w.
            pull = products.mv(weight).view_as(scale).mul_(scale).mul_(scale).div_(-x.shape[-1])
            return torch.mul(gradient, weight).addcmul_(x, pull).mul_(scale), of_weight, None


def _forward(self: nn.Module, x: Tensor) -> Tensor:
    """Forward pass of a norm that `fuse` has changed; on a GPU or in half precision the module's own."""
    weight: Any = self.weight
    if x.device.type != "cpu" or x.dtype not in _DTYPES or x.dtype != weight.dtype:
        own: Tensor = type(self).forward(self, x)
        return own
    normed: Tensor = _RMSNorm.apply(x, weight, _epsilon(self))
    return normed


def _epsilon(norm: nn.Module) -> float | None:
    return next((value for name in _EPSILONS if isinstance(value := getattr(norm, name, None), float)), None)


def fuse(network: nn.Module) -> int:
    """Let the RMS norms of a model compute in fewer passes on CPU; returns how many do.

    Which modules are such norms is found out by trying; others stay as they are. Changes the modules given and no
    class; weights, their names and what is saved are the same.
    """
    norms = [module for module in network.modules() if type(module).__name__.endswith("RMSNorm") and _is_plain(module)]
    for norm in norms:
        norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]
    return len(norms)


@torch.no_grad()
def _is_plain(norm: nn.Module) -> bool:
    """Whether a module is x · r · weight and nothing besides, whatever its weight; it may be on the meta device."""
    weight, eps = getattr(norm, "weight", None), _epsilon(norm)
    if eps is None or not isinstance(weight, Tensor) or weight.ndim != 1 or weight.dtype not in _DTYPES:
        return False
    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(norm).to_empty(device="cpu")
    trial.weight.copy_(torch.randn(len(weight), generator=generator))  # type: ignore[operator, union-attr]
    x = torch.randn(2, 3, len(weight), dtype=weight.dtype, generator=generator)
    own, ours = trial(x), _RMSNorm.apply(x, trial.weight, eps)
    return isinstance(own, Tensor) and torch.allclose(own, ours, rtol=_TOLERANCE, atol=_TOLERANCE)
