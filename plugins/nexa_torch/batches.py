"""The rows of each optimizer step as tensors: this rank's share, and the token count of all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nexa.batch import BatchPlan
from nexa_torch.data.order import rows_of_microbatch
from nexa_torch.data.rows import IGNORED, Batch, Rows
from nexa_torch.parallel import Ranks

TensorBatch = dict[str, Tensor]


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """Move a batch to a device as int64 tensors "input_ids", "labels", "positions" of [rows, width].

    Padding continues the positions of the row's last document: it is behind everything that carries
    loss, so causal attention hides it, and a row of one document needs no mask.
    """
    positions = batch.positions
    padding = batch.document < 0
    if padding.any():
        width = np.arange(positions.shape[1])
        last = positions.shape[1] - 1 - padding.sum(axis=1)
        beyond = positions[np.arange(len(last)), last][:, None] + width[None, :] - last[:, None]
        positions = np.where(padding, beyond, positions)
    arrays = {"input_ids": batch.input_ids, "labels": batch.labels, "positions": positions}
    tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
    if device.type == "cpu":
        return tensors
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one rank trains on in one optimizer step.

    microbatches: (number of the microbatch over all ranks, batch); empty ones are left out.
    rows: indices of this rank's rows. tokens: tokens on this rank, padding not counted.
    trained_tokens: positions with loss on this rank.
    """

    microbatches: list[tuple[int, TensorBatch]]
    rows: list[int]
    tokens: int
    trained_tokens: int


class TrainingRows:
    """Lays out the windows of a run; the same step always gives the same rows, on any number of ranks."""

    def __init__(self, rows: Rows, plan: BatchPlan, ranks: Ranks, *, seed: int, total_rows: int) -> None:
        self._rows = rows
        self._plan = plan
        self._ranks = ranks
        self._seed = seed
        self._total_rows = total_rows

    def window(self, step: int) -> Window:
        """This rank's share of optimizer step `step`, counted from 0."""
        microbatches, taken, tokens, trained = [], [], 0, 0
        for micro in range(self._plan.accumulation_steps):
            indices = rows_of_microbatch(
                seed=self._seed,
                n=len(self._rows),
                step=step,
                micro=micro,
                rank=self._ranks.rank,
                world_size=self._ranks.world_size,
                microbatch_size=self._plan.microbatch_size,
                accumulation_steps=self._plan.accumulation_steps,
                total_rows=self._total_rows,
            )
            if len(indices) == 0:
                continue
            batch = self._rows.take(indices)
            tokens += int((batch.document >= 0).sum())
            trained += int((batch.labels != IGNORED).sum())
            taken.extend(int(index) for index in indices)
            microbatches.append(
                (micro * self._ranks.world_size + self._ranks.rank, to_tensors(batch, self._ranks.device))
            )
        return Window(microbatches=microbatches, rows=taken, tokens=tokens, trained_tokens=trained)
