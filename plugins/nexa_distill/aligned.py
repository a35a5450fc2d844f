"""Token rows with the same text in the tokens of a teacher that has others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nexa_distill.alignment import Aligner
from nexa_distill.beside import RowsWithMore
from nexa_torch.data.language import TokenBatch, collate
from nexa_torch.data.rows import IGNORED, Batch, Rows

ALIGNED = "aligned"
"""Key of a batch under which its text stands in the tokens of a teacher that has others."""


class AlignedDataset(RowsWithMore):
    """Token rows and the same text in the teacher's tokens."""

    def __init__(self, rows: Rows, aligner: Aligner) -> None:
        super().__init__(rows)
        self._aligner = aligner

    def beside(self, batch: Batch, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """What `aligned_rows` makes of the rows."""
        return aligned_rows(batch, self._aligner)


def aligned_rows(batch: Batch, aligner: Aligner) -> dict[str, np.ndarray]:
    """The text of a batch as its teacher reads it, a row for each of the batch's.

    "input_ids", "positions": int64 [rows, teacher's width], padded behind the last document. "student": matched
    positions, counted over the batch's labelled ones, int64 [A], ascending; "teacher": their flat places in
    "input_ids".
    """
    rows = [_aligned_row(*row, aligner) for row in zip(batch.input_ids, batch.document, strict=True)]
    width = max(1, *(len(ids) for ids, *_ in rows))
    shape = (len(rows), width)
    input_ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    student, teacher = [], []
    for number, (ids, places, ours, theirs) in enumerate(rows):
        input_ids[number, : len(ids)], positions[number, : len(ids)] = ids, places
        # Padding goes on with the last document, which it stands behind.
        last = int(places[-1]) if len(places) else -1
        positions[number, len(ids) :] = last + 1 + np.arange(width - len(ids))
        student.append(number * batch.input_ids.shape[1] + ours)
        teacher.append(number * width + theirs)
    flat, labelled = np.concatenate(student), batch.labels.ravel() != IGNORED
    kept = labelled[flat]
    return {
        "input_ids": input_ids,
        "positions": positions,
        "student": (np.cumsum(labelled) - 1)[flat[kept]],
        "teacher": np.concatenate(teacher)[kept],
    }


def _aligned_row(ids: np.ndarray, document: np.ndarray, aligner: Aligner) -> tuple[np.ndarray, ...]:
    """A row's tokens and positions for the teacher, and the matched columns of both."""
    count = int((document >= 0).sum())
    starts = np.flatnonzero(np.diff(document[:count], prepend=-1))
    tokens, places, ours, theirs, before = [], [], [], [], 0
    for start, piece in zip(starts, np.split(ids[:count], starts[1:]), strict=True):
        text = aligner(piece)
        tokens.append(text.ids)
        places.append(np.arange(len(text.ids)))
        ours.append(start + text.student)
        theirs.append(before + text.teacher)
        before += len(text.ids)
    return tuple(np.concatenate(parts).astype(np.int64) for parts in (tokens, places, ours, theirs))


def collate_aligned(item: tuple[Batch, dict[str, np.ndarray]]) -> TokenBatch:
    """The batch as tensors; the matched positions of the student stay on the host."""
    batch, aligned = item
    return {
        **collate(batch),
        ALIGNED: {name: array if name == "student" else torch.from_numpy(array) for name, array in aligned.items()},
    }
