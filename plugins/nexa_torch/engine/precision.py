"""The arithmetic of a run: autocast around forward passes, loss scaling for fp16, and the optimizer's step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from nexa.errors import WorkerError
from nexa_torch.distributed.synchronize import gradient_norm

if TYPE_CHECKING:
    from torch.optim import Optimizer

_SMALLEST_SCALE = 2.0**-24
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossScale:
    """A factor on the loss that keeps small fp16 gradients from vanishing, found while training.

    Starts at 2¹⁶, halves whenever gradients overflow, doubles after `growth_interval` steps in a row
    without an overflow: the rule of `torch.amp.GradScaler` (Micikevicius et al. 2018, arXiv:1710.03740). It goes
    by the norm over the gradients of all ranks, which every rank knows alike, so ranks can't disagree
    about a step, whether gradients are sharded or not.
    """

    def __init__(self, *, initial: float = 65536.0, growth_interval: int = 2000) -> None:
        self.value = initial
        self.skipped_steps = 0
        self._growth_interval = growth_interval
        self._good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """Take note of a step. Raises WorkerError when no scale helps."""
        if overflowed:
            self.value *= 0.5
            self.skipped_steps += 1
            self._good_steps = 0
            if self.value < _SMALLEST_SCALE:
                raise WorkerError(
                    f"fp16 gradients overflow even with the loss scaled by {self.value:.1e}",
                    hint="set training.precision=bf16 or fp32, or lower optimizer.lr",
                )
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


def use_tf32(wanted: bool) -> None:
    """Let this process's fp32 products on CUDA round their factors to 10 bits, or not.

    By the settings that torch keeps in step with its newer `fp32_precision`: set the other way round, its compiler
    refuses to read them.
    """
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


class Precision:
    """What `training.precision` means on a device: weights, gradients and optimizer state stay fp32 in all."""

    def __init__(self, name: str, device: torch.device) -> None:
        """name: "fp32", "tf32", "bf16" or "fp16"; tf32 sets CUDA's fp32 products for the whole process."""
        self.scale = LossScale() if name == "fp16" else None
        if self.scale is not None:
            # The schedule counts the run's steps, those left out too; torch takes that for a wrong order.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)` before")
        self._dtype = _AUTOCAST.get(name)
        self._device = device
        if device.type == "cuda":
            use_tf32(name == "tf32")

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where the precision needs it, to the parameters'."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def unscale(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take the loss scale out of the gradients, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.scale is not None and gradients:
            torch._foreach_mul_(gradients, 1.0 / self.scale.value)

    @staticmethod
    def finite(parameters: Sequence[nn.Parameter]) -> bool:
        """Whether no gradient has overflowed; holds up the device."""
        return bool(torch.isfinite(gradient_norm(parameters)))

    def step(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
        """Unscale the gradients, clip them to a global L2 norm and take an optimizer step.

        Returns the norm before clipping. In fp16 a step whose gradients overflowed is left out and
        counted in `figures`; its norm is not finite.
        """
        self.unscale(parameters)
        norm = gradient_norm(parameters)
        if self.scale is not None:
            overflowed = not bool(torch.isfinite(norm))
            self.scale.update(overflowed=overflowed)
            if overflowed:
                return norm
        if max_norm is not None:
            clip_grads_with_norm_(parameters, max_norm, norm)
        optimizer.step()
        return norm

    def figures(self) -> dict[str, float]:
        """Metrics of the loss scale; empty where there is none."""
        if self.scale is None:
            return {}
        return {"loss_scale": self.scale.value, "skipped_steps": float(self.scale.skipped_steps)}

    def state_dict(self) -> dict[str, Any]:
        """State as plain JSON values; empty where there is none."""
        return {} if self.scale is None else self.scale.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of `state_dict`."""
        if self.scale is not None and state:
            self.scale.load_state_dict(state)
