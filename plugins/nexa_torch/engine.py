"""The training loop. `Engine.train_step` is one optimizer step, from token rows to new weights."""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nexa.backend import RunResult, RunState
from nexa.errors import WorkerError
from nexa_torch.allocator import FreedMemory
from nexa_torch.batches import TrainingRows
from nexa_torch.models import LanguageModel
from nexa_torch.parallel import Ranks

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa.recipe.schema import TrainingSection
    from nexa.worker.context import EventSink


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the engine asks for at step boundaries; each is called on every rank.

    evaluate: returns {"eval_loss", "perplexity"}, empty without held-out data or when stopped early.
    sample: writes sample events. save: commits a checkpoint of the step and returns its name.
    """

    evaluate: Callable[[int], dict[str, float]]
    sample: Callable[[int], None]
    save: Callable[[int, dict[str, float]], str | None]


@dataclass
class _Meter:
    """What happened since the last metrics record; loss and norm stay tensors until it is written."""

    losses: list[tuple[int, Tensor]] = field(default_factory=list)
    grad_norm: Tensor | None = None
    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0


class Engine:
    """Trains a model on rows of tokens; the optimizer, schedule and model are changed in place."""

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Optimizer,
        schedule: LRScheduler,
        rows: TrainingRows,
        ranks: Ranks,
        training: TrainingSection,
        total_steps: int,
        loss_chunk: int,
        events: EventSink,
        stop_requested: Callable[[], str | None],
        hooks: Hooks,
        run_dir: Path,
        freed_memory: FreedMemory | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.ranks = ranks
        self.total_steps = total_steps
        self.metrics: dict[str, float] = {}
        self._rows = rows
        self._training = training
        self._loss_chunk = loss_chunk
        self._events = events
        self._stop_requested = stop_requested
        self._hooks = hooks
        self._run_dir = run_dir
        self._freed_memory = freed_memory
        self._parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
        self._tokens_seen = 0
        self._meter = _Meter()

    def train_step(self, step: int) -> None:
        """Do optimizer step `step` (from 0): the gradient of the mean loss over all its tokens, once."""
        window = self._rows.window(step)
        tokens, trained_tokens = self.ranks.sum_counts(window.tokens, window.trained_tokens)
        loss = torch.zeros((), device=self.ranks.device)
        for number, batch in window.microbatches:
            torch.manual_seed(dropout_seed(self._training.seed, step, number))
            with self.autocast():
                part = self.model.loss_sum(batch, scale=1.0 / max(1, trained_tokens), chunk=self._loss_chunk)
            part.backward()
            loss += part.detach()

        self.ranks.sum_gradients(self._parameters)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if self._training.max_grad_norm is not None:
            clip_grads_with_norm_(self._parameters, self._training.max_grad_norm, norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

        self._meter.losses.append((step, loss))
        self._meter.grad_norm = norm
        self._meter.tokens += tokens
        self._meter.trained_tokens += trained_tokens

    def run(self, start_step: int, tokens_seen: int) -> RunResult:
        """Train from `start_step` finished steps to the end, or until a stop is requested.

        Evaluates and samples before the first step, every eval_every_steps and after the last; saves
        every save_every_steps, after the last, and when stopped. Raises WorkerError when the loss is
        not a number.
        """
        self._tokens_seen = tokens_seen
        step, saved, checkpoint = start_step, start_step, None
        if step == 0:
            self._observe(step)
        self.model.network.train()
        # What lives now lives to the end; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._progress("training", step)
        while step < self.total_steps and not self.should_stop():
            started = time.perf_counter()
            lr = self.schedule.get_last_lr()[0]
            self.train_step(step)
            step += 1
            if self._freed_memory is not None:
                self._freed_memory.after_step()
            last = step == self.total_steps
            self._meter.steps += 1
            logs = last or step % self._training.log_every_steps == 0
            saves = last or _due(step, self._training.save_every_steps)
            if logs or saves:
                self._settle()
            self._meter.seconds += time.perf_counter() - started
            if logs:
                self._log(step, lr)
            if last or _due(step, self._training.eval_every_steps):
                self._observe(step)
            if saves and not last:
                checkpoint, saved = self._save(step), step
        if step > saved:
            self._settle()
            checkpoint = self._save(step)
        state = RunState.COMPLETED if step >= self.total_steps else RunState.STOPPED
        return RunResult(state=state, step=step, metrics=self.metrics, checkpoint=checkpoint)

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on over all ranks and attempts, padding not counted."""
        return self._tokens_seen + self._meter.tokens

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of forward passes, as the recipe's precision says."""
        if self._training.precision == "bf16":
            return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer."""
        return self.ranks.any(self._stop_requested() is not None)

    def _observe(self, step: int) -> None:
        self._progress("evaluating", step)
        self.metrics.update(self._hooks.evaluate(step))
        self._hooks.sample(step)
        self.model.network.train()
        self._progress("training", step)

    def _save(self, step: int) -> str | None:
        self._progress("saving", step)
        return self._hooks.save(step, dict(self.metrics))

    def _progress(self, phase: str, step: int) -> None:
        if self.ranks.is_main:
            self._events.write("progress", phase=phase, step=step, total_steps=self.total_steps)

    def _settle(self) -> None:
        """Bring the losses since the last call to this machine, and stop where one is not a number."""
        if not self._meter.losses:
            return
        steps = [step for step, _ in self._meter.losses]
        losses = self.ranks.sum(torch.stack([loss for _, loss in self._meter.losses])).tolist()
        self._meter.losses.clear()
        for step, loss in zip(steps, losses, strict=True):
            if loss != loss or loss in (float("inf"), float("-inf")):
                self._fail(step, loss)
        self.metrics["loss"] = losses[-1]

    def _log(self, step: int, lr: float) -> None:
        meter, self._meter = self._meter, _Meter()
        self._tokens_seen += meter.tokens
        norm = float(meter.grad_norm) if meter.grad_norm is not None else 0.0
        if not self.ranks.is_main:
            return
        values = {
            "loss": self.metrics["loss"],
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_second": meter.tokens / meter.seconds,
            "trained_tokens_per_second": meter.trained_tokens / meter.seconds,
            "tokens": self._tokens_seen,
            "step_seconds": meter.seconds / meter.steps,
            "memory_bytes": peak_memory_bytes(self.ranks.device),
        }
        self._events.write("metrics", step=step, values=values)
        self._progress("training", step)

    def _fail(self, step: int, loss: float) -> None:
        """Raise for a loss that is not a number; the rows it came from are written to the run folder."""
        window = self._rows.window(step)
        file = self._run_dir / f"failed-batch-{step + 1:08d}-rank{self.ranks.rank}.json"
        tokens = [batch["input_ids"].tolist() for _, batch in window.microbatches]
        file.write_text(json.dumps({"step": step + 1, "rows": window.rows, "input_ids": tokens}), encoding="utf-8")
        raise WorkerError(
            f"the loss of step {step + 1} is {loss}; this rank's training rows were {window.rows}",
            hint=f"the batch is in {file}; lower optimizer.lr or raise optimizer.scheduler.warmup_steps",
        )


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def dropout_seed(seed: int, step: int, microbatch: int) -> int:
    """Seed of the random numbers of one microbatch: a pure function, so that no generator state is kept.

    The same on any number of ranks, since microbatches are counted over all of them.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{microbatch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
