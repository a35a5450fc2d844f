"""Stops a run whose loss is not a number, keeping the batch that did it, or whose batch does not fit into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from nexa.errors import WorkerError
from nexa_torch.batches import tensors_in

if TYPE_CHECKING:
    from nexa_torch.engine.engine import TrainingEngine
    from nexa_torch.engine.windows import Window

_NO_MEMORY = "DefaultCPUAllocator"
"""Stands in torch's message where the host has no memory left; of a GPU's there is an exception."""


def require_finite(engine: TrainingEngine, losses: Mapping[int, float]) -> None:
    """Raise WorkerError for the first loss that is NaN or infinite; `losses` by step, from 0.

    The batch of this rank is loaded again and written to the run's folder.
    """
    for step, loss in losses.items():
        if not math.isfinite(loss):
            window = engine.source.window(step)
            rows = f"; this rank's training rows were {window.rows}" if window.rows else ""
            file = _write_batch(engine.run_dir, window, step, engine.ranks.rank) if engine.run_dir else None
            kept = f"the batch is in {file}; " if file else ""
            raise WorkerError(
                f"the loss of step {step + 1} is {loss}{rows}",
                hint=f"{kept}lower optimizer.lr or raise optimizer.scheduler.warmup_steps",
            )


@contextmanager
def require_memory(engine: TrainingEngine) -> Iterator[None]:
    """Around what computes on a microbatch: say in words that there is too little memory for it. Raises WorkerError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _NO_MEMORY not in str(error):
            raise
        rows = engine.plan.microbatch_size
        smaller = f"training.microbatch_size_per_gpu={max(1, rows // 2)}"
        run = engine.run_dir.name if engine.run_dir else None
        resume = f": nexa resume {run} {smaller}" if run else f", such as {smaller}"
        raise WorkerError(
            f"a microbatch of {rows} rows does not fit into the memory of {engine.ranks.device} in step "
            f"{engine.step + 1}: {str(error).strip().splitlines()[0]}",
            hint=(f"fewer rows at a time compute the same{resume}; " if rows > 1 else "")
            + "see also training.activation_checkpointing and docs/how-to/save-memory.md",
        ) from error


def _write_batch(folder: Path, window: Window, step: int, rank: int) -> Path:
    """Write the tensors of a window's microbatches, named NUMBER/PLACE, with the rows as metadata."""
    file = folder / f"failed-batch-{step + 1:08d}-rank{rank}.safetensors"
    tensors = {
        f"{part.number}/{name}": tensor.detach().cpu().contiguous().clone()
        for part in window.microbatches
        for name, tensor in tensors_in(part.batch)
    }
    save_file(tensors, file, {"step": str(step + 1), "rows": json.dumps(window.rows)})
    return file
