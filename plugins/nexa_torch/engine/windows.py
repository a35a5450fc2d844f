"""The microbatches of each optimizer step, taken from a data module's loader."""

from __future__ import annotations

import math
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch

from nexa.errors import UserError
from nexa_torch.data.module import GlobalSampler
from nexa_torch.data.order import RunLength, run_length
from nexa_torch.engine.seeds import fetch_seed

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Sampler

    from nexa.batch import BatchPlan
    from nexa.recipe.sections.training import TrainingSection
    from nexa_torch.tasks.base import TrainingTask


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """One forward and backward pass. number: within its step, over all ranks. weight, size: as the task counts."""

    number: int
    batch: Any
    weight: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one rank trains on in one optimizer step.

    rows: indices of its rows, empty where the sampler does not tell. epochs_done: passes over the data
    that are complete behind this step.
    """

    microbatches: list[Microbatch]
    rows: list[int]
    epochs_done: int

    @property
    def weight(self) -> int:
        """Weight of this rank's microbatches together."""
        return sum(part.weight for part in self.microbatches)

    @property
    def size(self) -> int:
        """Units (see `TrainingTask.unit`) in this rank's microbatches together."""
        return sum(part.size for part in self.microbatches)


class Source(Protocol):
    """Gives the windows of a run in order. n_rows: rows of the data set, 0 where not known."""

    n_rows: int
    total_steps: int

    def windows(self, start: int, *, seeded: bool) -> Iterator[Window]:
        """Yield the windows from optimizer step `start` (from 0) to the last.

        seeded: set torch's generator before each window is loaded, so that data sets which draw from it
        give the same rows in a resumed run.
        """

    def window(self, step: int) -> Window:
        """Load one window again."""

    def epochs_done(self, step: int) -> int:
        """Passes over the data that are complete after `step` optimizer steps."""

    def idle_batch(self) -> Any:
        """A batch for passes of a rank that has no data of its own; its result counts nothing."""


def make_source(
    loader: DataLoader[Any], sampler: Sampler[Any], task: TrainingTask, plan: BatchPlan, training: TrainingSection
) -> Source:
    """The source for a data module's loader and sampler. Raises UserError where they don't fit the run."""
    if isinstance(sampler, GlobalSampler):
        return _GlobalSource(loader, sampler, task, plan, training)
    return _EpochSource(loader, sampler, task, plan, training)


class _Source(ABC):
    """What both kinds of sources do alike."""

    @abstractmethod
    def windows(self, start: int, *, seeded: bool) -> Iterator[Window]:
        """Yield the windows from step `start` to the last."""

    def window(self, step: int) -> Window:
        """Load one window again, in this process."""
        return next(self.windows(step, seeded=True))

    def idle_batch(self) -> Any:
        """The first batch of the run. Raises UserError where this rank has none."""
        parts = self.window(0).microbatches
        if not parts:
            raise UserError(
                "there is no row for one of the ranks, and a sharded model needs one on every rank",
                hint="use fewer processes, or set distributed.strategy=ddp",
            )
        return parts[0].batch


class _GlobalSource(_Source):
    """Windows of a `GlobalSampler`: any step is reached at once, and epochs follow without a seam."""

    def __init__(
        self,
        loader: DataLoader[Any],
        sampler: GlobalSampler,
        task: TrainingTask,
        plan: BatchPlan,
        training: TrainingSection,
    ) -> None:
        if sampler.batch_size != plan.microbatch_size:
            raise UserError(
                f"the data module's batches hold {sampler.batch_size} rows and "
                f"training.microbatch_size_per_gpu is {plan.microbatch_size}",
                hint="give GlobalSampler batch_size=recipe.training.microbatch_size_per_gpu",
            )
        self._loader, self._sampler, self._task, self._plan = loader, sampler, task, plan
        self._seed = training.seed
        self._length: RunLength = run_length(training, sampler.n, plan.global_batch_size)
        self.n_rows = sampler.n
        self.total_steps = self._length.total_steps

    def windows(self, start: int, *, seeded: bool) -> Iterator[Window]:
        """Yield the windows from step `start` to the last."""
        accumulation = self._plan.accumulation_steps
        self._sampler.select(start=start * accumulation, total_rows=self._length.total_rows)
        with _closing(iter(self._loader)) as batches:
            for step in range(start, self.total_steps):
                if seeded:
                    torch.manual_seed(fetch_seed(self._seed, step, self._sampler.rank))
                parts = islice(batches, accumulation)
                microbatches = [_microbatch(self._task, self._plan, micro, self._sampler.rank, batch)
                                for micro, batch in enumerate(parts)]  # fmt: skip
                yield Window(microbatches=microbatches, rows=self._rows(step), epochs_done=self.epochs_done(step + 1))

    def epochs_done(self, step: int) -> int:
        """Whole passes within the rows of `step` steps."""
        return min(step * self._plan.global_batch_size, self._length.total_rows) // self.n_rows

    def _rows(self, step: int) -> list[int]:
        accumulation = self._plan.accumulation_steps
        return [row for micro in range(accumulation) for row in self._sampler.rows(step * accumulation + micro)]


class _EpochSource(_Source):
    """Windows of any other sampler: each epoch starts anew, and its last window may be short."""

    def __init__(
        self, loader: DataLoader[Any], sampler: Sampler[Any], task: TrainingTask, plan: BatchPlan,
        training: TrainingSection,
    ) -> None:  # fmt: skip
        self._loader, self._sampler, self._task, self._plan = loader, sampler, task, plan
        self._rank = getattr(sampler, "rank", 0)
        self._seed = training.seed
        try:
            self._steps_per_epoch = math.ceil(len(loader) / plan.accumulation_steps)
            self.n_rows = len(loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            self._steps_per_epoch = self.n_rows = 0
        if training.max_steps is not None:
            self.total_steps = training.max_steps
        elif self._steps_per_epoch:
            self.total_steps = math.ceil(round((training.epochs or 1.0) * self._steps_per_epoch, 6))
        else:
            raise UserError(
                "the data module's loader has no length, so the run has none either", hint="set training.max_steps"
            )

    def windows(self, start: int, *, seeded: bool) -> Iterator[Window]:
        """Yield the windows from step `start`, reading up to it within its epoch."""
        epoch, skip = divmod(start, self._steps_per_epoch) if self._steps_per_epoch else (0, start)
        step = start
        while step < self.total_steps:
            if hasattr(self._sampler, "set_epoch"):
                self._sampler.set_epoch(epoch)
            if seeded:
                torch.manual_seed(fetch_seed(self._seed, -1 - epoch, self._rank))
            empty = True
            with _closing(iter(self._loader)) as batches:
                while parts := list(islice(batches, self._plan.accumulation_steps)):
                    empty = False
                    if skip:
                        skip -= 1
                        continue
                    if step >= self.total_steps:
                        return
                    step += 1
                    microbatches = [_microbatch(self._task, self._plan, micro, self._rank, batch)
                                    for micro, batch in enumerate(parts)]  # fmt: skip
                    done = self.epochs_done(step) if self._steps_per_epoch else epoch
                    yield Window(microbatches=microbatches, rows=[], epochs_done=done)
            if empty:
                raise UserError("the data module's training loader gives no batch")
            epoch += 1

    def epochs_done(self, step: int) -> int:
        """Epochs whose windows are all behind `step`; 0 where an epoch's length is not known."""
        return step // self._steps_per_epoch if self._steps_per_epoch else 0


def _microbatch(task: TrainingTask, plan: BatchPlan, micro: int, rank: int, batch: Any) -> Microbatch:
    return Microbatch(
        number=micro * plan.world_size + rank,
        batch=batch,
        weight=task.batch_weight(batch),
        size=task.batch_size(batch),
    )


@contextmanager
def _closing(batches: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """End a loader's worker processes when its batches are no longer wanted, not when they are collected."""
    try:
        yield batches
    finally:
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


@contextmanager
def loaded_ahead(windows: Iterator[Window], *, threaded: bool) -> Iterator[Iterator[Window]]:
    """The same windows; with `threaded` the next one is loaded in a thread while the caller computes."""
    if not threaded:
        try:
            yield windows
        finally:
            windows.close()  # type: ignore[attr-defined]
        return
    ahead = _Ahead(windows)
    try:
        yield ahead
    finally:
        ahead.close()


class _Ahead(Iterator[Window]):
    """Takes windows from an iterator in a thread, one ahead of what is asked for."""

    def __init__(self, windows: Iterator[Window]) -> None:
        self._windows = windows
        self._queue: queue.Queue[Window | BaseException | None] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="load-batches", daemon=True)
        self._thread.start()

    def __next__(self) -> Window:
        item = self._queue.get()
        if isinstance(item, Window):
            return item
        self._queue.put(item)
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _fill(self) -> None:
        end: BaseException | None = None
        try:
            for window in self._windows:
                self._put(window)
                if self._closed.is_set():
                    break
        except BaseException as error:  # whatever it is, it belongs to the loop that waits
            end = error
        finally:
            self._windows.close()  # type: ignore[attr-defined]
        self._put(end)

    def _put(self, item: Window | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
