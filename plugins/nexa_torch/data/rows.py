"""Token rows: what one training step reads. Stored flat, laid out as arrays on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from nexa_torch.data.packing import Layout

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


class TokenSource(Protocol):
    """Where rows get their tokens from: `nexa_torch.data.store.TokenStore` or `TokenArrays`."""

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and trained marks (bool) of the places `start` ≤ i < `stop`."""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What rows hold: tokens without padding, positions that carry loss, and the largest token id."""

    tokens: int
    trained_tokens: int
    largest_token: int


class Rows:
    """Rows of at most `row_length` tokens, each made of whole documents or pieces of long ones.

    segments: the pieces, row by row. source: where their tokens are. Tokens stay there, such as in memory maps; a row
    is laid out when it is taken.
    """

    ordered = False
    """Whether rows are numbered in the order of training already, so that a sampler must not shuffle them."""

    def __init__(self, *, source: TokenSource, layout: Layout, counts: RowCounts, row_length: int, pad_id: int) -> None:
        self.row_length = row_length
        self.pad_id = pad_id
        self.counts = counts
        self.source = source
        self.segments = layout.segments
        self._row_ends = layout.row_ends
        self._starts = layout.segments.start
        self._lengths = layout.segments.length
        self._continues = layout.segments.continues

    def __len__(self) -> int:
        return len(self._row_ends)

    @property
    def token_count(self) -> int:
        """Tokens in all rows, padding not counted."""
        return self.counts.tokens

    @property
    def largest_token_id(self) -> int:
        """Largest token id that occurs; a model must know it."""
        return self.counts.largest_token

    @property
    def trained_token_count(self) -> int:
        """Positions in all rows that carry loss."""
        return self.counts.trained_tokens

    @property
    def empty_places(self) -> int:
        """Places of all rows at full length that hold no token."""
        return len(self) * self.row_length - self.token_count

    def row_token_counts(self) -> np.ndarray:
        """Tokens of each row, int64 [len(self)]."""
        ends = np.concatenate(([0], np.cumsum(self._lengths, dtype=np.int64)))[self._row_ends]
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

    def places(self, indices: Sequence[int] | np.ndarray, width: int) -> np.ndarray:
        """Where in `source` the token of each position of some rows lies, int64 [rows, width]; -1 on padding."""
        places = np.full((len(indices), width), -1, dtype=np.int64)
        for row, index in enumerate(indices):
            segments = self._segments_of(int(index))
            starts, lengths = self._starts[segments], self._lengths[segments]
            within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            places[row, : len(within)] = np.repeat(starts, lengths) + within
        return places

    def _segments_of(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return slice(int(self._row_ends[index - 1]) if index else 0, int(self._row_ends[index]))

    def _lay_out(self, batch: Batch, row: int, segments: slice) -> None:
        column = 0
        for number, index in enumerate(range(segments.start, segments.stop)):
            start, length = int(self._starts[index]), int(self._lengths[index])
            tokens, trained = self.source.read(start, start + length + int(self._continues[index]))
            end = column + length
            batch.input_ids[row, column:end] = tokens[:length]
            batch.positions[row, column:end] = np.arange(length, dtype=np.int32)
            batch.document[row, column:end] = number
            batch.labels[row, column : column + len(tokens) - 1] = np.where(
                trained[1:], tokens[1:].astype(np.int32), IGNORED
            )
            column = end


def stack(batches: Sequence[Batch], pad_id: int) -> Batch:
    """The rows of several batches as one, as wide as the widest."""
    if len(batches) == 1:
        return batches[0]
    width = max((batch.input_ids.shape[1] for batch in batches), default=0)
    fills = {"input_ids": pad_id, "labels": IGNORED, "positions": 0, "document": -1}

    def joined(name: str) -> np.ndarray:
        parts = [getattr(batch, name) for batch in batches] or [np.empty((0, 0), dtype=np.int32)]
        return np.concatenate(
            [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fills[name]) for part in parts]
        )

    return Batch(**{name: joined(name) for name in fills})
