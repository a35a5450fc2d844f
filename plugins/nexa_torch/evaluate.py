"""Loss and perplexity on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from nexa_torch.batches import to_tensors
from nexa_torch.data.rows import IGNORED, Rows
from nexa_torch.models import LanguageModel
from nexa_torch.parallel import Ranks

_OVERFLOW = 700.0


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    rows: Rows,
    ranks: Ranks,
    *,
    batch_size: int,
    loss_chunk: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    should_stop: Callable[[], bool],
) -> dict[str, float]:
    """Return {"eval_loss", "perplexity"} over all rows, or nothing when asked to stop on the way.

    eval_loss is the mean over tokens, not over batches, so it depends on neither batch size nor
    number of ranks; perplexity is its exponential.
    """
    model.network.eval()
    total = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    stride = batch_size * ranks.world_size
    for start in range(0, len(rows), stride):
        if should_stop():
            return {}
        first = start + ranks.rank * batch_size
        indices = range(first, min(first + batch_size, len(rows)))
        if not indices:
            continue
        batch = rows.take(list(indices))
        with autocast():
            total[0] += model.loss_sum(to_tensors(batch, ranks.device), scale=1.0, chunk=loss_chunk)
        total[1] += int((batch.labels != IGNORED).sum())
    loss_sum, tokens = ranks.sum(total).tolist()
    loss = loss_sum / max(1.0, tokens)
    return {"eval_loss": loss, "perplexity": math.exp(loss) if loss < _OVERFLOW else math.inf}
