"""Ends training when a figure of its evaluations no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from nexa.worker.retention import metric_value, smaller_is_better
from nexa_torch.callbacks.base import Callback, CallbackContext


class EarlyStopping(Callback):
    """Ends training after `patience` evaluations in a row without an improvement.

    With patience 3 and the best figure at evaluation k, training ends right behind evaluation k + 3. An
    evaluation counts as improvement when it is better than the best by more than `min_delta`; NaN never
    does. All of it is kept in checkpoints, so a resumed run stops where an uninterrupted one does.
    """

    priority: ClassVar[int] = 20

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        *,
        mode: str = "auto",
        min_delta: float = 0.0,
        restore_best: bool = False,
    ) -> None:
        """monitor: a figure of evaluations; val_loss is eval_loss. mode: "min", "max", or "auto" by name.

        restore_best: end with the weights of the best evaluation; keeps a copy of the trained ones on the CPU.
        Raises ValueError for a patience below 1, an unknown mode or a negative min_delta.
        """
        if patience < 1:
            raise ValueError(f"patience is {patience}; it must be at least 1")
        if min_delta < 0:
            raise ValueError(f"min_delta is {min_delta}; it must not be negative")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.restore_best = restore_best
        self.best: float | None = None
        self.best_step: int | None = None
        self.waited = 0
        self._sign = 1.0 if smaller_is_better(monitor, mode) else -1.0
        self._best_metrics: dict[str, float] = {}
        self._best_weights: dict[str, Tensor] = {}
        self._warned = False

    def on_validation_end(self, ctx: CallbackContext) -> None:
        """Compare with the best, and end training when the patience is used up."""
        value = metric_value(ctx.metrics, self.monitor)
        if value is None:
            self._warn(ctx)
            return
        if ctx.step == 0:
            # Untrained weights are no result of training; they are not what later ones are held against.
            return
        if not math.isnan(value) and (self.best is None or self._sign * (self.best - value) > self.min_delta):
            self.best, self.best_step, self.waited = value, ctx.step, 0
            self._best_metrics = {name: figure for name, figure in ctx.metrics.items() if name != "loss"}
            if self.restore_best:
                self._best_weights = {name: _whole(weight) for name, weight in _trained(ctx).items()}
        else:
            self.waited += 1
            if self.waited >= self.patience:
                ctx.stop(
                    f"{self.monitor} did not improve in {self.patience} evaluation{'s' * (self.patience > 1)}; "
                    f"the best was {_number(self.best)} at step {self.best_step}"
                )
        if self.waited >= self.patience or ctx.step >= ctx.total_steps:
            self._restore(ctx)

    def state_dict(self) -> dict[str, Any]:
        """The best figure, its step and its evaluation's figures, and evaluations since."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "waited": self.waited,
            "best_metrics": self._best_metrics,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue to count."""
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
        self._best_metrics = dict(state["best_metrics"])

    def state_tensors(self) -> dict[str, Tensor]:
        """The best weights, where they are to be restored."""
        return self._best_weights

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep the best weights of earlier attempts."""
        self._best_weights = dict(tensors)

    def _restore(self, ctx: CallbackContext) -> None:
        if not self._best_weights or self.best is None or self.best_step == ctx.step:
            return
        with torch.no_grad():
            for name, weight in _trained(ctx).items():
                weight.copy_(_spread_like(self._best_weights[name], weight))
        # The figures that checkpoints carry are those of the weights in them.
        ctx.metrics.update(self._best_metrics)
        text = f"the weights of step {self.best_step} are restored, the best by {self.monitor}"
        ctx.write("message", level="info", text=text)

    def _warn(self, ctx: CallbackContext) -> None:
        if not self._warned:
            self._warned = True
            known = ", ".join(sorted(ctx.metrics)) or "none; nothing is held out"
            text = f"early stopping watches {self.monitor}, which evaluations do not have; they have: {known}"
            ctx.write("message", level="warning", text=text)


EarlyStoppingCallback = EarlyStopping


def _trained(ctx: CallbackContext) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in ctx.model.named_parameters() if parameter.requires_grad}


def _whole(weight: Tensor) -> Tensor:
    """A copy on the CPU, put together on every rank where the model is sharded."""
    weight = weight.detach()
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).to("cpu", copy=True)


def _spread_like(whole: Tensor, weight: Tensor) -> Tensor:
    """The values as `weight` has its own: on its device, and sharded where it is."""
    whole = whole.to(weight.device)
    return distribute_tensor(whole, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else whole


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
