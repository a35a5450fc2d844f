"""The contract of a callback, what it is told, and the order in which callbacks are called.

Every method is called on every rank. One that a class does not override costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa_torch.distributed.ranks import Ranks
    from nexa_torch.engine.engine import TrainingEngine

HOOKS = (
    "on_train_begin",
    "on_load",
    "on_epoch_begin",
    "on_step_begin",
    "on_step_end",
    "on_log",
    "on_validation_begin",
    "on_validation_end",
    "on_epoch_end",
    "on_save",
    "on_exception",
    "on_train_end",
)
"""Every hook, in the order in which a run calls them first."""


@dataclass
class CallbackContext:
    """The state of training as callbacks see it, and what they may ask of the engine.

    step: finished optimizer steps. epoch: passes over the data that are finished. total_steps: of the run.
    metrics: the latest figures: "loss", "eval_loss", what the task returns. log: the newest log record:
    these with "lr", "grad_norm", throughput and memory; what `on_log` adds is written with it. lr: rate
    of the step under way or just done. checkpoint: name of the newest committed checkpoint, on rank 0.
    exception: what ended training, for `on_exception` and `on_train_end`.
    """

    engine: TrainingEngine
    step: int = 0
    epoch: int = 0
    total_steps: int = 0
    lr: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    log: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    exception: BaseException | None = None
    last_loss: Tensor | None = None

    @property
    def loss(self) -> float:
        """Mean loss of the last step over all ranks; reading it waits for the device. NaN before a step."""
        return float("nan") if self.last_loss is None else float(self.last_loss)

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self.engine.model

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer."""
        return self.engine.optimizer

    @property
    def scheduler(self) -> LRScheduler | None:
        """The learning-rate schedule, None for a constant rate."""
        return self.engine.scheduler

    @property
    def ranks(self) -> Ranks:
        """The group of worker processes."""
        return self.engine.ranks

    @property
    def run_dir(self) -> Path | None:
        """The run's folder; None outside of a run."""
        return self.engine.run_dir

    def write(self, type: str, /, **fields: Any) -> None:
        """Append an event to the run's event file (see `nexa.events`); rank 0 alone writes."""
        if self.ranks.is_main:
            self.engine.events.write(type, **fields)

    def stop(self, reason: str) -> None:
        """End training, completed, at the next step boundary of all ranks, with a checkpoint."""
        self.engine.finish_early(reason)

    def save(self) -> None:
        """Save a checkpoint at the end of this step; asked of any rank, all save."""
        self.engine.request_save()


class Callback:
    """Something that happens around training; override what is of interest.

    priority: lower ones are called earlier; callbacks of equal priority in the order they were given.
    """

    priority: ClassVar[int] = 0

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Model, optimizer and data are ready; called once, before anything else."""

    def on_load(self, ctx: CallbackContext) -> None:
        """A checkpoint was restored, this callback's own state too; right after `on_train_begin`."""

    def on_epoch_begin(self, ctx: CallbackContext) -> None:
        """`ctx.epoch` passes over the data are done and the next begins, or is continued after a resume."""

    def on_step_begin(self, ctx: CallbackContext) -> None:
        """`ctx.step` optimizer steps are done and the next begins."""

    def on_step_end(self, ctx: CallbackContext) -> None:
        """`ctx.step` optimizer steps are done; `ctx.loss` is the last one's."""

    def on_log(self, ctx: CallbackContext) -> None:
        """Figures were gathered for the log; what is added to `ctx.log` here is written with them."""

    def on_validation_begin(self, ctx: CallbackContext) -> None:
        """An evaluation on held-out data begins."""

    def on_validation_end(self, ctx: CallbackContext) -> None:
        """An evaluation is complete; `ctx.metrics` has "eval_loss". Not called for one that was cut short."""

    def on_epoch_end(self, ctx: CallbackContext) -> None:
        """`ctx.epoch` passes over the data are done."""

    def on_save(self, ctx: CallbackContext) -> None:
        """The checkpoint `ctx.checkpoint` of this step was committed."""

    def on_exception(self, ctx: CallbackContext) -> None:
        """Training failed with `ctx.exception`, which is raised again behind this."""

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Training is over: finished, stopped or failed; called exactly once, whatever happened."""

    def state_dict(self) -> dict[str, Any]:
        """State that checkpoints keep, as JSON values; empty by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Tensors that checkpoints keep; empty by default."""
        return {}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_tensors` returned."""


class CallbackList:
    """The callbacks of a run in order of priority; calls only those that override a hook."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(sorted(callbacks, key=lambda callback: callback.priority))
        self._listeners: dict[str, list[Callable[[CallbackContext], None]]] = {
            hook: [
                getattr(callback, hook)
                for callback in self.callbacks
                if getattr(type(callback), hook) is not getattr(Callback, hook)
            ]
            for hook in HOOKS
        }

    def call(self, hook: str, ctx: CallbackContext) -> None:
        """Call one hook of all callbacks that have it. An exception in one stops the others, and training."""
        for listener in self._listeners[hook]:
            listener(ctx)

    def call_each(self, hook: str, ctx: CallbackContext) -> list[Exception]:
        """Call one hook of all callbacks, whichever of them fail; returns what they raised."""
        errors: list[Exception] = []
        for listener in self._listeners[hook]:
            try:
                listener(ctx)
            except Exception as error:
                errors.append(error)
        return errors

    def fail(self, ctx: CallbackContext, error: BaseException) -> None:
        """Tell all callbacks of a failure; what goes wrong in them is noted on it, not raised in its place."""
        ctx.exception = error
        for other in self.call_each("on_exception", ctx):
            error.add_note(f"on_exception failed too: {type(other).__name__}: {other}")

    def end(self, ctx: CallbackContext) -> None:
        """Call `on_train_end` of all callbacks; what goes wrong is raised, or noted on the failure before it."""
        errors = self.call_each("on_train_end", ctx)
        if ctx.exception is None and errors:
            raise errors[0]
        for error in errors:
            assert ctx.exception is not None
            ctx.exception.add_note(f"on_train_end failed too: {type(error).__name__}: {error}")

    def state_dicts(self) -> dict[str, dict[str, Any]]:
        """State of each callback that has one, by `key_of` it."""
        return {key: state for key, callback in self._keyed() if (state := callback.state_dict())}

    def load_state_dicts(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Give each callback its saved state back; state of callbacks that are not here is left alone."""
        for key, callback in self._keyed():
            if key in states:
                callback.load_state_dict(states[key])

    def state_tensors(self) -> dict[str, Tensor]:
        """Tensors of all callbacks, each named KEY/NAME."""
        return {
            f"{key}/{name}": tensor
            for key, callback in self._keyed()
            for name, tensor in callback.state_tensors().items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Give each callback its saved tensors back."""
        for key, callback in self._keyed():
            own = {name.removeprefix(f"{key}/"): value for name, value in tensors.items() if name.startswith(f"{key}/")}
            if own:
                callback.load_state_tensors(own)

    def _keyed(self) -> list[tuple[str, Callback]]:
        """Callbacks by class name, numbered from the second of a class on: "EarlyStopping", "EarlyStopping-2"."""
        counts: dict[str, int] = {}
        keyed = []
        for callback in self.callbacks:
            name = type(callback).__name__
            counts[name] = counts.get(name, 0) + 1
            keyed.append((name if counts[name] == 1 else f"{name}-{counts[name]}", callback))
        return keyed
