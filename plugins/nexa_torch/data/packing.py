"""Put documents into rows so that little padding is computed on.

No document is dropped and none is cut that fits into a row; documents in a row are kept apart by the
row's `positions` and `document` arrays. Each row takes the longest document left and then those that fill
it best (minimum bin slack, Gupta & Ho 1999), a pure function of the lengths.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Pieces of documents: `length` tokens (int64 [S]) from `start` of the token store (int64 [S]).

    continues: bool [S], the document goes on behind this piece, so its last position has a token to predict.
    document: int64 [S], number of the document.
    """

    start: np.ndarray
    length: np.ndarray
    continues: np.ndarray
    document: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def select(self, indices: np.ndarray) -> Segments:
        """The segments at `indices` (or where a mask is true), in that order."""
        return Segments(
            start=self.start[indices],
            length=self.length[indices],
            continues=self.continues[indices],
            document=self.document[indices],
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows of segments: row i holds the segments from `row_ends[i - 1]` (0 for the first) to `row_ends[i]`."""

    segments: Segments
    row_ends: np.ndarray


def split_documents(starts: np.ndarray, lengths: np.ndarray, row_length: int) -> Segments:
    """Cut documents into pieces of at most `row_length` tokens; no token and no prediction is lost.

    starts, lengths: int64 [documents]; documents of no tokens vanish.
    """
    counts = -(-lengths // row_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * row_length
    rest = lengths[document] - offset
    return Segments(
        start=starts[document] + offset,
        length=np.minimum(rest, row_length),
        continues=rest > row_length,
        document=document,
    )


def arrange(segments: Segments, row_length: int, *, packing: bool) -> Layout:
    """Rows of segments: packed, or one segment a row in the given order."""
    if not packing:
        return Layout(segments=segments, row_ends=np.arange(1, len(segments) + 1))
    rows = pack(segments.length, row_length)
    return Layout(
        segments=segments.select(np.argsort(rows, kind="stable")),
        row_ends=np.cumsum(np.bincount(rows)),
    )


def pack(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Number of the row of each item, int64 [N]; rows are numbered from 0 without gaps.

    lengths: tokens of each item, 1 ≤ length ≤ row_length.
    """
    if not len(lengths):
        return np.empty(0, dtype=np.int64)
    if not (int(lengths.min()) >= 1 and int(lengths.max()) <= row_length):
        raise AssertionError(f"lengths {lengths.min()}..{lengths.max()} do not fit rows of {row_length}")
    order = np.argsort(lengths, kind="stable")
    held = np.bincount(lengths, minlength=row_length + 1)
    # Items of one length are taken from the end of their stretch of `order`.
    ends = np.cumsum(held)
    rows = np.empty(len(lengths), dtype=np.int64)
    row = 0
    for longest in np.flatnonzero(held)[::-1].tolist():
        while held[longest]:
            held[longest] -= 1
            wanted = Counter(_fill(held, row_length - longest))
            held[longest] += 1
            wanted[longest] += 1
            # As long as there are such items, the next rows are filled in the same way.
            times = min(int(held[length]) // count for length, count in wanted.items())
            for length, count in wanted.items():
                taken = times * count
                place = order[ends[length] - taken : ends[length]]
                rows[place] = np.repeat(np.arange(row, row + times), count)
                ends[length] -= taken
                held[length] -= taken
            row += times
    return rows


def _fill(held: np.ndarray, room: int) -> list[int]:
    """Lengths of items that together come closest to `room` without passing it, long ones before short ones.

    held: how many items there are of each length from 0 on, int64. Subset sums by dynamic programming (Bellman
    1957), a bit a sum: bit r is set where some of the lengths seen so far add up to r.
    """
    places = (1 << (room + 1)) - 1
    sums = 1
    seen: list[tuple[int, int]] = []
    lengths = np.flatnonzero(held[: room + 1])[::-1]
    for length, count in zip(lengths.tolist(), held[lengths].tolist(), strict=True):
        for _ in range(min(count, room // length)):
            more = sums | (sums << length & places)
            if more == sums:
                break
            seen.append((length, sums))
            sums = more
        if sums >> room:
            break
    rest = sums.bit_length() - 1
    filling = []
    # A sum that was missing before a length was seen is made with that length.
    for length, before in reversed(seen):
        if not before >> rest & 1:
            filling.append(length)
            rest -= length
    return filling
