"""The arithmetic of a run: autocast around forward passes, the backward pass, and the optimizer's step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from nexa_torch.distributed.synchronize import gradient_norm

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Precision:
    """What `training.precision` means on a device."""

    def __init__(self, name: str, device: torch.device) -> None:
        """name: "fp32" or "bf16"."""
        self._dtype = torch.bfloat16 if name == "bf16" else None
        self._device = device

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the parameters'."""
        loss.backward()

    def step(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
        """Clip the gradients to a global L2 norm and take an optimizer step; returns the norm before clipping."""
        norm = gradient_norm(parameters)
        if max_norm is not None:
            clip_grads_with_norm_(parameters, max_norm, norm)
        optimizer.step()
        return norm
