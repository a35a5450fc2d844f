"""The arithmetic of training: autocast, loss scaling for fp16, and the step of scaled gradients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossScale:
    """A factor on the loss that keeps small fp16 gradients from vanishing, found while training.

    Starts at 2¹⁶, halves whenever gradients overflow, doubles after `growth_interval` steps without an
    overflow: the rule of `torch.amp.GradScaler` (Micikevicius et al. 2018, arXiv:1710.03740). It
    looks at the norm over all gradients of all ranks, which every rank knows alike, so ranks can't
    disagree about a step, sharded or not.
    """

    def __init__(self, *, initial: float = 65536.0, growth_interval: int = 2000) -> None:
        self.value = initial
        self.skipped_steps = 0
        self._growth_interval = growth_interval
        self._good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """Take note of a step."""
        if overflowed:
            self.value *= 0.5
            self.skipped_steps += 1
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == self._growth_interval:
            self.value *= 2.0
            self._good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """State as plain JSON values."""
        return {"value": self.value, "skipped_steps": self.skipped_steps, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of `state_dict`."""
        self.value, self.skipped_steps = float(state["value"]), int(state["skipped_steps"])
        self._good_steps = int(state["good_steps"])


class Precision:
    """How forward, backward and update are computed, as `training.precision` names it.

    name: "fp32", "tf32", "bf16" or "fp16"; weights, gradients and optimizer state are fp32 in all of
    them. Raises nothing: what a device can't do is refused before (see `nexa_torch.checks`).
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.scale = LossScale() if name == "fp16" else None
        if device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
            torch.backends.cudnn.conv.fp32_precision = "tf32" if name == "tf32" else "ieee"

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of forward passes."""
        dtype = _AUTOCAST.get(self.name)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, scaled where the precision needs it, to every parameter's."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Take the loss scale out of the gradients, in place."""
        if self.scale is not None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, 1.0 / self.scale.value)

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights; returns False where the step is skipped because fp16 gradients overflowed.

        norm: of all gradients, unscaled, the same on every rank.
        """
        if self.scale is not None:
            overflowed = not bool(torch.isfinite(norm))
            self.scale.update(overflowed=overflowed)
            if overflowed:
                return False
        optimizer.step()
        return True

    def unscale_and_step(
        self, optimizer: Optimizer, parameters: list[Tensor], max_norm: float | None
    ) -> tuple[Tensor, bool]:
        """Unscale, clip to a global L2 norm of `max_norm` (None: not at all) and update the weights.

        Returns the norm before clipping and whether the weights were updated.
        """
        self.unscale(parameters)
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if max_norm is not None:
            clip_grads_with_norm_(parameters, max_norm, norm)
        return norm, self.step(optimizer, norm)

    def state_dict(self) -> dict[str, Any]:
        """State as plain JSON values; empty where there is none."""
        return {} if self.scale is None else self.scale.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of `state_dict`."""
        if self.scale is not None and state:
            self.scale.load_state_dict(state)
