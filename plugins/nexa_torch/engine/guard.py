"""Stops a run whose loss is not a number, and keeps the batch that did it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from nexa.errors import WorkerError
from nexa_torch.batches import tensors_in

if TYPE_CHECKING:
    from nexa_torch.engine.engine import TrainingEngine
    from nexa_torch.engine.windows import Window


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
