"""Distilled datasets in the forms of others. Both are JSON Lines, a piece of a document a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nexa.distiller import CaptureProgress
from nexa.errors import UserError
from nexa.files import output_file
from nexa_distill.dataset import DistilledDataset, require_whole
from nexa_distill.records import Predictions
from nexa_distill.shards import Shard

_LARGEST_JSON = 50_000_000
"""Numbers that a dataset may become as whole distributions."""
_IGNORED = -100


def export(dataset: Path, output: Path, *, form: str, on_progress: CaptureProgress | None = None) -> None:
    """Write a dataset as `form`: "axolotl" or "json". Raises UserError and DataError."""
    writer = _FORMS.get(form)
    if writer is None:
        raise UserError(f"there is no form {form!r}", hint=f"forms: {', '.join(_FORMS)}")
    opened = DistilledDataset(dataset)
    require_whole(opened)
    with output_file(output) as stream:
        for number, shard in enumerate(opened.shards()):
            if on_progress is not None:
                on_progress("writing", number, len(opened.index["shards"]))
            stream.writelines(f"{json.dumps(row)}\n" for row in writer(opened, shard))


def _pieces(shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray, Predictions]]:
    """Tokens, trained marks and predictions of each piece."""
    trained = shard.trained()
    for start, length in zip(shard.starts.tolist(), shard.pieces.length.tolist(), strict=True):
        rows = slice(start, start + length)
        yield np.asarray(shard.tokens[rows]), trained[rows], shard.read(start, start + length)


def _axolotl(dataset: DistilledDataset, shard: Shard) -> Iterator[dict[str, Any]]:
    """Rows with Axolotl's KD columns.

    Axolotl compares what the model predicts at position t with row t of the target columns, without a shift, while it
    shifts `labels` itself. So row t holds P(· | x≤t), as recorded, and `labels` stand unshifted beside their tokens.
    """
    for tokens, trained, found in _pieces(shard):
        weights = found.weights(dataset.spec)
        ends = np.cumsum(found.entries, dtype=np.int64)
        spans = [slice(end - count, end) for end, count in zip(ends, found.entries.astype(np.int64), strict=True)]
        ids = [found.ids[span].tolist() or [0] for span in spans]
        with np.errstate(divide="ignore"):
            log_p = np.maximum(np.log(weights), -1e9).round(5)
        yield {
            "input_ids": tokens.tolist(),
            "attention_mask": [1] * len(tokens),
            "labels": np.where(trained, tokens.astype(np.int64), _IGNORED).tolist(),
            "target_token_ids": ids,
            "target_logprobs": [log_p[span].tolist() or [-1e9] for span in spans],
            "target_mask": [[1] * (span.stop - span.start) or [0] for span in spans],
        }


def _json(dataset: DistilledDataset, shard: Shard) -> Iterator[dict[str, Any]]:
    """One row a prediction: `teacher_probs` over the whole vocabulary, and the `target` that followed."""
    numbers = dataset.index["recorded"] * dataset.vocabulary
    if numbers > _LARGEST_JSON:
        raise UserError(
            f"whole distributions of {dataset.path} are {numbers:,} numbers; this form is for up to {_LARGEST_JSON:,}",
            hint="read the dataset itself: nexa_distill.dataset.DistilledDataset",
        )
    for tokens, _, found in _pieces(shard):
        weights, ends = found.weights(dataset.spec), np.cumsum(found.entries, dtype=np.int64)
        for row in np.flatnonzero(found.entries).tolist():
            span = slice(int(ends[row]) - int(found.entries[row]), int(ends[row]))
            probabilities = np.zeros(dataset.vocabulary, dtype=np.float32)
            probabilities[found.ids[span]] = weights[span]
            target = int(tokens[row + 1]) if row + 1 < len(tokens) else None
            yield {"teacher_probs": probabilities.astype(float).round(6).tolist(), "target": target}


_FORMS: dict[str, Callable[[DistilledDataset, Shard], Iterator[dict[str, Any]]]] = {"axolotl": _axolotl, "json": _json}
