"""The training loop. `TrainingEngine.train_step` is one optimizer step, from microbatches to new weights."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nexa.backend import RunResult, RunState
from nexa.batch import resolve_batch
from nexa_torch.batches import to_device
from nexa_torch.callbacks.base import Callback, CallbackContext, CallbackList
from nexa_torch.checkpoint import read_cursor
from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.ranks import Ranks
from nexa_torch.distributed.strategy import Strategy
from nexa_torch.engine.curvature import estimate_curvature
from nexa_torch.engine.evaluation import evaluate
from nexa_torch.engine.guard import require_finite, require_memory
from nexa_torch.engine.meter import Meter
from nexa_torch.engine.precision import Precision
from nexa_torch.engine.preparing import Stopped, current_lr, prepare
from nexa_torch.engine.saving import Saver
from nexa_torch.engine.seeds import dropout_seed
from nexa_torch.engine.surroundings import NoEvents
from nexa_torch.engine.windows import Source, Window, loaded_ahead
from nexa_torch.kernels.matmul import MatmulChoice
from nexa_torch.memory import offloaded_activations
from nexa_torch.optimizers.curvature import NeedsCurvature
from nexa_torch.optimizers.weights import evaluation_weights
from nexa_torch.schedules import observe_evaluation
from nexa_torch.tasks.base import TrainingTask

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa.recipe.schema import Recipe
    from nexa.worker.context import CheckpointCommitter, EventSink, RunContext
    from nexa_torch.data.module import BaseDataModule


class TrainingEngine:
    """Trains a task on the batches of a data module.

    recipe: how long, in which batches and how often. run_dir, events, checkpoints: of the run it belongs
    to; checkpoints is None where nothing is to be saved. model, criterion, optimizer, scheduler, source,
    precision, strategy, ranks, parameters: what is trained with, from `run` on.
    """

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    precision: Precision
    strategy: Strategy
    source: Source
    ranks: Ranks
    matmul: MatmulChoice

    def __init__(
        self,
        config: Any,
        task: TrainingTask,
        rank: int = 0,
        world_size: int = 1,
        *,
        data_module: BaseDataModule | None = None,
        callbacks: Iterable[Callback] = (),
        context: RunContext | None = None,
        resume_from: Path | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """config: a recipe, or anything whose `recipe` is one, such as `nexa_torch.Config`.

        data_module: default the task's own. context: the run that events, stop requests and checkpoints
        belong to; without one nothing is written. resume_from: checkpoint folder to continue from, default
        the context's. ranks: the process group where it is joined already.
        """
        self.recipe: Recipe = getattr(config, "recipe", config)
        self.task = task
        module = data_module or task.data_module
        if module is None:
            raise TypeError("TrainingEngine needs a data_module, its own or the task's")
        self.data_module = task.data_module = module
        self.callbacks = CallbackList(callbacks)
        self.rank, self.world_size = rank, world_size
        self.run_dir: Path | None = context.run_dir if context else None
        self.resume_from = resume_from or (context.resume_from if context else None)
        self.events: EventSink = context.events if context else NoEvents()
        self.checkpoints: CheckpointCommitter | None = context.checkpoints if context else None
        self.saver: Saver | None = None
        self._stop_reason = context.stop_requested if context else _never
        self.plan = resolve_batch(self.recipe.training, world_size)
        self.tokens_seen = 0
        self._given_ranks = ranks
        self._meter = Meter()
        self._ctx = CallbackContext(engine=self)
        self._early: str | None = None
        self._save_asked = False
        self.parameters: list[nn.Parameter] = []

    def run(self) -> RunResult:
        """Train from the start, or from the context's checkpoint, to the end or until a stop is requested.

        Evaluates before the first step, every eval_every_steps and after the last; saves every
        save_every_steps, after the last, and when stopped. Raises WorkerError when the loss is not a
        number, UserError where task, data and checkpoint don't fit, and what callbacks raise.
        """
        with ExitStack() as stack:
            self.ranks = self._given_ranks or stack.enter_context(self._join())
            try:
                prepare(self, self._ctx)
            except Stopped:
                step = read_cursor(self.resume_from).step if self.resume_from else 0
                return RunResult(state=RunState.STOPPED, step=step)
            try:
                return self._train()
            except BaseException as error:
                self.callbacks.fail(self._ctx, error)
                raise
            finally:
                if self.saver is not None:
                    self.saver.close()
                self.callbacks.end(self._ctx)

    def train_step(self, window: Window, step: int) -> None:
        """Do optimizer step `step` (from 0): the gradient of the mean loss over all of its batch, once."""
        training = self.recipe.training
        weight, size = self.ranks.sum_counts(window.weight, window.size)
        if isinstance(self.optimizer, NeedsCurvature) and self.optimizer.curvature_due():
            self._wait_for_copy()
            estimate_curvature(self, self.optimizer, window, step, weight)
        loss = torch.zeros((), device=self.ranks.device)
        for part, last in self.strategy.passes(window.microbatches, self.source.idle_batch):
            torch.manual_seed(dropout_seed(training.seed, step, part.number))
            batch = to_device(part.batch, self.ranks.device)
            with self.precision.autocast(), offloaded_activations(self.model, offload=training.activation_offload):
                mean, figures = self.task.train_step(batch, self.model, self.criterion)
            share = mean * (part.weight / max(1, weight))
            with self.strategy.last_backward(last):
                self.precision.backward(share)
            loss += share.detach()
            self._meter.totals.add(figures, part.weight)

        self.strategy.sum_gradients()
        self._wait_for_copy()
        norm = self.precision.step(self.optimizer, self.parameters, training.max_grad_norm)
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

        loss = self.ranks.sum(loss)
        self._ctx.last_loss = loss
        self._meter.losses.append((step, loss))
        self._meter.grad_norm = norm
        self._meter.units += size
        self._meter.weight += weight

    def finish_early(self, reason: str) -> None:
        """End training, completed, at the next step boundary; asked of any rank, it ends all."""
        self._early = self._early or reason

    def request_save(self) -> None:
        """Save a checkpoint at the end of the step under way; asked of any rank, all save."""
        self._save_asked = True

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self._ctx.step

    @property
    def metrics(self) -> dict[str, float]:
        """The latest figures."""
        return self._ctx.metrics

    @property
    def units_seen(self) -> int:
        """Units (tokens, samples) trained on over all ranks and attempts, padding not counted."""
        return self.tokens_seen + self._meter.units

    def _join(self) -> Any:
        local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        recipe = self.recipe
        return process_group(
            self.rank,
            local_rank,
            self.world_size,
            gpus=recipe.cluster.gpus_per_node,
            timeout=recipe.distributed.timeout_seconds,
        )

    def _train(self) -> RunResult:
        ctx = self._ctx
        self._call("on_train_begin")
        if self.checkpoints is not None:
            self.saver = Saver(self, self.checkpoints, in_background=self.recipe.checkpointing.async_save)
        if self.resume_from is not None:
            self._call("on_load")
        if ctx.step == 0:
            self._observe()
        self.model.train()
        # What lives now lives to the end; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._progress("training")
        saved = ctx.step
        threaded = self.data_module.prefetch and not self.recipe.data.loader_workers
        with loaded_ahead(self.source.windows(ctx.step, seeded=not threaded), threaded=threaded) as windows:
            ending = self._agree_on_end()
            if ctx.step < ctx.total_steps and not ending:
                self._call("on_epoch_begin")
            while ctx.step < ctx.total_steps and not ending:
                saves = self._step(next(windows))
                ending = self._agree_on_end()
                if (saves or self._save_asked) and ctx.step < ctx.total_steps and not ending:
                    self._save()
                    saved = ctx.step
        if ctx.step > saved:
            self._save()
        if self.saver is not None:
            self._saved(self.saver.finish())
        state = RunState.COMPLETED if ctx.step >= ctx.total_steps or self._early else RunState.STOPPED
        reason = self._early if self._early and ctx.step < ctx.total_steps else ""
        if reason:
            ctx.write("message", level="info", text=f"training ended at step {ctx.step}: {reason}")
        return RunResult(state=state, step=ctx.step, metrics=ctx.metrics, checkpoint=ctx.checkpoint, reason=reason)

    def _step(self, window: Window) -> bool:
        """One optimizer step, then the records and evaluations due behind it; returns whether to save."""
        ctx, training = self._ctx, self.recipe.training
        started = time.perf_counter()
        self._call("on_step_begin")
        ctx.lr = current_lr(self.optimizer)
        with require_memory(self):
            self.train_step(window, ctx.step)
        ctx.step += 1
        self._meter.steps += 1
        last = ctx.step == ctx.total_steps
        logs = last or _due(ctx.step, training.log_every_steps)
        saves = last or _due(ctx.step, training.save_every_steps)
        if logs or saves:
            self._settle()
        self._meter.seconds += time.perf_counter() - started
        self._call("on_step_end")
        if logs:
            self._log()
        evaluates = last or _due(ctx.step, training.eval_every_steps)
        if evaluates or _due_within(ctx.epoch, window.epochs_done, training.eval_every_epochs):
            self._observe()
        while ctx.epoch < window.epochs_done:
            ctx.epoch += 1
            self._call("on_epoch_end")
            if not last:
                self._call("on_epoch_begin")
        return saves

    def _agree_on_end(self) -> bool:
        """Whether any rank was asked to stop or wants to end early; all ranks get the same answers."""
        news = self.saver is not None and self.ranks.is_main and self.saver.has_news
        stop, early, save, saved = self.ranks.sum_counts(
            int(self.stop_requested()), int(self._early is not None), int(self._save_asked), int(news)
        )
        if saved and self.saver is not None:
            self._saved(self.saver.finish())
        if early and self._early is None:
            self._early = "another rank asked for it"
        self._save_asked = save > 0
        return stop > 0 or early > 0

    def stop_requested(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._stop_reason() is not None

    def _observe(self) -> None:
        """Evaluate on held-out data, where there is any, and let callbacks look."""
        ctx = self._ctx
        self._progress("evaluating")
        self._call("on_validation_begin")
        held_out = self.data_module.val_dataloader(self.ranks.rank, self.ranks.world_size)
        values: dict[str, float] = {}
        if held_out is not None:
            with evaluation_weights(self.optimizer), require_memory(self):
                values = evaluate(
                    self.task,
                    self.model,
                    self.criterion,
                    held_out[0],
                    self.ranks,
                    autocast=self.precision.autocast,
                    stop_requested=self.stop_requested,
                    idle_batch=self.source.idle_batch if self.strategy.equal_passes else None,
                )
        if values:
            ctx.metrics.update(values)
            # What is found before the first step says nothing of the rate.
            observe_evaluation(self.scheduler, values if ctx.step else {})
            ctx.write("eval", step=ctx.step, values=values)
        if values or held_out is None:
            self._call("on_validation_end")
        self.model.train()
        self._progress("training")

    def _save(self) -> None:
        self._settle()
        self._save_asked = False
        if self.saver is None:
            return
        self._progress("saving")
        self._saved(self.saver.save())

    def _wait_for_copy(self) -> None:
        """Let a save in the background finish its copy of what the optimizer is about to change."""
        if self.saver is not None:
            self.saver.wait_for_copy()

    def _saved(self, completed: bool) -> None:
        """Take note of a checkpoint that was committed, in the background perhaps some steps ago."""
        if completed and self.saver is not None:
            self._ctx.checkpoint = self.saver.name
            self._call("on_save")

    def _settle(self) -> None:
        """Bring the losses since the last call to this machine, and stop where one is not a number."""
        if not self._meter.losses:
            return
        steps = [step for step, _ in self._meter.losses]
        losses = torch.stack([loss for _, loss in self._meter.losses]).tolist()
        self._meter.losses.clear()
        require_finite(self, dict(zip(steps, losses, strict=True)))
        self._ctx.metrics["loss"] = losses[-1]

    def _log(self) -> None:
        """Write the figures since the last record."""
        ctx, meter = self._ctx, self._meter
        self._meter = Meter()
        self.tokens_seen += meter.units
        figures = meter.totals.means(self.ranks)
        ctx.metrics.update(figures)
        ctx.log = {
            "loss": ctx.metrics["loss"],
            "lr": ctx.lr,
            **meter.record(self.task, units_seen=self.tokens_seen, device=self.ranks.device),
            **self.precision.figures(),
            **figures,
        }
        self._call("on_log")
        ctx.write("metrics", step=ctx.step, values=ctx.log)
        self._progress("training")

    def _progress(self, phase: str) -> None:
        self._ctx.write("progress", phase=phase, step=self._ctx.step, total_steps=self.source.total_steps)

    def _call(self, hook: str) -> None:
        self.callbacks.call(hook, self._ctx)


def _never() -> None:
    """No stop is ever requested."""


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _due_within(before: int, now: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies in before < n ≤ now."""
    return every is not None and now // every > before // every
