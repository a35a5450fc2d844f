"""Token rows: what one training step reads. Stored flat, laid out as arrays on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""Label of a position without loss, as in `torch.nn.functional.cross_entropy`."""

_ROUND_TO = 8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows as int32 arrays of one shape [rows, width].

    input_ids: tokens, `pad_id` behind the last document.
    labels: the token that each position must predict (already shifted), IGNORED where there is no loss.
    positions: place within the document, from 0; 0 on padding.
    document: number of the document within its row, from 0; -1 on padding.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    document: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of one document that lies in one row: `length` tokens from `start` of the token store.

    continues: the document goes on behind this piece, so the last position has a token to predict.
    """

    start: int
    length: int
    continues: bool


class Rows:
    """Rows of at most `row_length` tokens, each made of whole documents or pieces of long ones.

    `tokens` and `trained` hold all documents end to end; a row lists the segments it consists of.
    """

    def __init__(
        self,
        *,
        tokens: np.ndarray,
        trained: np.ndarray,
        segments: Sequence[Sequence[Segment]],
        row_length: int,
        pad_id: int,
    ) -> None:
        """tokens: token ids [N]; trained: bool [N], true where predicting that token carries loss."""
        self.row_length = row_length
        self.pad_id = pad_id
        self._tokens = tokens
        self._trained = trained
        self._row_ends = np.cumsum([len(row) for row in segments], dtype=np.int64)
        flat = [segment for row in segments for segment in row]
        self._starts = np.array([segment.start for segment in flat], dtype=np.int64)
        self._lengths = np.array([segment.length for segment in flat], dtype=np.int64)
        self._continues = np.array([segment.continues for segment in flat], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._row_ends)

    @property
    def token_count(self) -> int:
        """Tokens in all rows, padding not counted."""
        return int(self._lengths.sum())

    @property
    def largest_token_id(self) -> int:
        """Largest token id in the store; a model must know it."""
        return int(self._tokens.max(initial=0))

    @property
    def trained_token_count(self) -> int:
        """Positions in all rows that carry loss."""
        before = np.concatenate(([0], np.cumsum(self._trained, dtype=np.int64)))
        ends = self._starts + self._lengths + self._continues
        return int((before[ends] - before[self._starts + 1]).sum())

    def row_token_counts(self) -> np.ndarray:
        """Tokens of each row, int64 [len(self)]."""
        ends = np.concatenate(([0], np.cumsum(self._lengths)))[self._row_ends]
        return np.diff(ends, prepend=0)

    def take(self, indices: Sequence[int] | np.ndarray, *, full_width: bool = False) -> Batch:
        """Lay out rows by index.

        The width is the longest taken row rounded up to a multiple of 8, at most row_length; with
        `full_width` it is row_length, for code that wants one shape.
        """
        rows = [self._segments_of(int(index)) for index in indices]
        longest = max((int(self._lengths[row].sum()) for row in rows), default=0)
        width = self.row_length if full_width else min(self.row_length, -(-longest // _ROUND_TO) * _ROUND_TO)
        shape = (len(rows), width)
        batch = Batch(
            input_ids=np.full(shape, self.pad_id, dtype=np.int32),
            labels=np.full(shape, IGNORED, dtype=np.int32),
            positions=np.zeros(shape, dtype=np.int32),
            document=np.full(shape, -1, dtype=np.int32),
        )
        for row, segments in enumerate(rows):
            self._lay_out(batch, row, segments)
        return batch

    def _segments_of(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return slice(int(self._row_ends[index - 1]) if index else 0, int(self._row_ends[index]))

    def _lay_out(self, batch: Batch, row: int, segments: slice) -> None:
        column = 0
        for number, index in enumerate(range(segments.start, segments.stop)):
            start, length = int(self._starts[index]), int(self._lengths[index])
            end = column + length
            batch.input_ids[row, column:end] = self._tokens[start : start + length]
            batch.positions[row, column:end] = np.arange(length, dtype=np.int32)
            batch.document[row, column:end] = number
            targets = slice(start + 1, start + length + int(self._continues[index]))
            labels = np.where(self._trained[targets], self._tokens[targets].astype(np.int32), IGNORED)
            batch.labels[row, column : column + len(labels)] = labels
            column = end
