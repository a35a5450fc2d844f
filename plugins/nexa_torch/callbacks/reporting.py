"""Figures for people and trackers: epoch lines, progress bars, learning rates, TensorBoard, Weights & Biases."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from nexa.plugins import get_host
from nexa.worker.observers import Observers
from nexa_torch.callbacks.base import Callback, CallbackContext

if TYPE_CHECKING:
    from nexa.worker.context import EventSink


class MetricsLogger(Callback):
    """Prints training and validation figures at the end of each epoch and of training; keeps them in `history`."""

    priority: ClassVar[int] = 60

    def __init__(self, stream: TextIO | None = None) -> None:
        """stream: where lines are printed, on rank 0. Default: standard output."""
        self._stream = stream
        self.history: list[dict[str, float]] = []
        """One entry an epoch: "epoch", "step" and every figure known then."""

    def on_epoch_end(self, ctx: CallbackContext) -> None:
        """Print the figures of the epoch."""
        self._record(ctx)

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Print what came behind the last whole epoch."""
        if ctx.step and (not self.history or self.history[-1]["step"] != ctx.step):
            self._record(ctx)

    def _record(self, ctx: CallbackContext) -> None:
        figures = {**ctx.metrics, "lr": ctx.lr}
        if ctx.last_loss is not None and ctx.exception is None:
            figures["loss"] = ctx.loss
        self.history.append({"epoch": float(ctx.epoch), "step": float(ctx.step), **figures})
        if ctx.ranks.is_main:
            text = "  ".join(f"{name} {value:.6g}" for name, value in figures.items())
            print(f"epoch {ctx.epoch}  step {ctx.step}/{ctx.total_steps}  {text}", file=self._stream or sys.stdout)


class ProgressCallback(Callback):
    """A progress bar of optimizer steps on a terminal, with the loss of the newest log record; needs tqdm."""

    priority: ClassVar[int] = 70

    def __init__(self, stream: TextIO | None = None, *, force: bool = False) -> None:
        """stream: default standard error. force: draw it also where that is no terminal."""
        self._stream = stream
        self._disable = False if force else None
        self._bar: Any = None

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Draw the bar on rank 0."""
        from tqdm import tqdm

        if ctx.ranks.is_main:
            self._bar = tqdm(
                total=ctx.total_steps,
                initial=ctx.step,
                unit="step",
                file=self._stream or sys.stderr,
                disable=self._disable,
                dynamic_ncols=True,
            )

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, ctx: CallbackContext) -> None:
        """Show loss and rate."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{ctx.log['loss']:.4g}", lr=f"{ctx.log['lr']:.3g}", refresh=False)

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class LRSchedulerCallback(Callback):
    """Logs the learning rate of every step, also of those without a log record, and keeps it in `history`."""

    priority: ClassVar[int] = 40

    def __init__(self) -> None:
        self.history: list[tuple[int, float]] = []
        """(step, rate) of each step, counted from 1."""

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Write the rate of this step where its log record won't."""
        self.history.append((ctx.step, ctx.lr))
        every = ctx.engine.recipe.training.log_every_steps
        if ctx.step % every and ctx.step != ctx.total_steps:
            ctx.write("metrics", step=ctx.step, values={"lr": ctx.lr})

    def on_epoch_end(self, ctx: CallbackContext) -> None:
        """Say the rate in words."""
        ctx.write("message", level="info", text=f"learning rate after epoch {ctx.epoch}: {ctx.lr:.6g}")


class LoggingCallback(Callback):
    """Sends figures to experiment trackers: the observer plugins that a recipe's `tracking` names too.

    They receive what the engine writes from the beginning of training on, on rank 0, each in a thread of
    its own; one that fails is reported once and left out, and never ends training.
    """

    priority: ClassVar[int] = 10

    def __init__(
        self,
        trackers: Iterable[str] = ("tensorboard",),
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        log_dir: str | Path = "runs",
        name: str = "run",
    ) -> None:
        """trackers: names of observer plugins. options: by tracker, as in its recipe section.

        log_dir: folder for what trackers write, for an engine that is no part of a run. Raises PluginError
        for an unknown tracker.
        """
        host = get_host()
        self._entries: Sequence[Mapping[str, Any]] = [
            {"name": spec.name, "factory": spec.factory, "options": dict((options or {}).get(spec.name, {}))}
            for spec in (host.spec("observer", tracker) for tracker in trackers)
        ]
        self._folder = Path(log_dir)
        self._name = name
        self._inner: EventSink | None = None
        self._observers: Observers | None = None

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Open the trackers and listen to the engine's events."""
        if not ctx.ranks.is_main:
            return
        folder = ctx.run_dir or self._folder
        folder.mkdir(parents=True, exist_ok=True)
        engine = ctx.engine
        self._inner = engine.events
        self._observers = Observers(
            self._entries,
            run_id=self._name,
            run_dir=folder.absolute(),
            recipe=engine.recipe.document(),
            warn=lambda text: self._warn(text),
        )
        self._observers.start()
        engine.events = self

    def write(self, type: str, /, **fields: Any) -> None:
        """Pass an event on to the engine's own sink and to the trackers."""
        assert self._inner is not None, "training has not begun"
        self._inner.write(type, **fields)
        if self._observers is not None:
            self._observers.put({"ts": time.time(), "type": type, **fields})

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Flush and close the trackers."""
        if self._observers is None or self._inner is None:
            return
        state = "failed" if ctx.exception is not None else "completed"
        self._observers.put({"ts": time.time(), "type": "end", "state": state, "step": ctx.step, "message": ""})
        self._observers.finish()
        self._observers = None
        ctx.engine.events = self._inner

    def _warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)
        if self._inner is not None:
            self._inner.write("message", level="warning", text=text)


class TensorBoardLogger(LoggingCallback):
    """Writes TensorBoard event files into a folder; needs the package tensorboard."""

    def __init__(self, log_dir: str | Path = "runs/tensorboard") -> None:
        """log_dir: folder that `tensorboard --logdir` is given."""
        folder = Path(log_dir)
        super().__init__(["tensorboard"], options={"tensorboard": {"log_dir": str(folder)}}, log_dir=folder)
