"""Which rows are trained on when: pure functions of seed, epoch and step.

Nothing is stored, so a resumed run continues in the same order, and a step holds the same rows
whatever the number of processes that share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nexa.recipe.sections.training import TrainingSection

# Separates the uses of the training seed from one another.
_ROWS, _HELD_OUT, _WINDOW = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How far a run goes: optimizer steps, and rows over all steps; the last step may hold fewer rows."""

    total_steps: int
    total_rows: int


def run_length(training: TrainingSection, n_rows: int, global_batch_size: int) -> RunLength:
    """Length of a run over `n_rows` rows: `max_steps` full steps, or `epochs` passes (default 1).

    A run by epochs sees ceil(epochs × n_rows) rows; its last step is smaller when they do not divide.
    """
    if training.max_steps is not None:
        return RunLength(total_steps=training.max_steps, total_rows=training.max_steps * global_batch_size)
    # The product of a decimal fraction and a count may lie a rounding error above a whole number.
    total_rows = max(1, math.ceil(round((training.epochs or 1.0) * n_rows, 6)))
    return RunLength(total_steps=math.ceil(total_rows / global_batch_size), total_rows=total_rows)


@lru_cache(maxsize=4)
def row_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Permutation of range(n) for one epoch, as a read-only int64 array.

    Comes from a counter-based generator keyed by seed and epoch, so any epoch is reached directly.
    """
    order = _permutation(n, _ROWS, seed, epoch)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=4)
def window_order(seed: int, epoch: int, window: int, n: int) -> np.ndarray:
    """Permutation of range(n) for one window of a stream in one pass over it, as a read-only int64 array."""
    order = _permutation(n, _WINDOW, seed, epoch, window)
    order.setflags(write=False)
    return order


def held_out(seed: int, n: int, count: int) -> np.ndarray:
    """`count` of range(n), ascending: the documents held out for evaluation, as an int64 array."""
    return np.sort(_permutation(n, _HELD_OUT, seed)[:count])


def _permutation(n: int, *key: int) -> np.ndarray:
    """Permutation of range(n) named by a key.

    Sorts the bit generator's raw output, which NumPy keeps stable between versions; its methods that shuffle are not.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(n), kind="stable")


def rows_at(seed: int, n: int, start: int, stop: int) -> np.ndarray:
    """Row indices at places `start` ≤ i < `stop` of the endless sequence of shuffled epochs."""
    pieces = []
    while start < stop:
        epoch, offset = divmod(start, n)
        count = min(n - offset, stop - start)
        pieces.append(row_order(seed, epoch, n)[offset : offset + count])
        start += count
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def rows_of_microbatch(
    *,
    seed: int,
    n: int,
    step: int,
    micro: int,
    rank: int,
    world_size: int,
    microbatch_size: int,
    accumulation_steps: int,
    total_rows: int,
) -> np.ndarray:
    """Row indices that `rank` trains on in microbatch `micro` of `step` (all from 0).

    A step owns microbatch_size × world_size × accumulation_steps places of the sequence of epochs;
    its microbatches take them in order, and within one the ranks do. Shorter than microbatch_size,
    possibly empty, only where the run's last places are used up.
    """
    if not (0 <= micro < accumulation_steps and 0 <= rank < world_size):
        raise AssertionError(f"microbatch {micro} of rank {rank} does not exist")
    place = ((step * accumulation_steps + micro) * world_size + rank) * microbatch_size
    return rows_at(seed, n, min(place, total_rows), min(place + microbatch_size, total_rows))
