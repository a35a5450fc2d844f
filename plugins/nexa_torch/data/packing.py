"""Put documents into rows so that little padding is computed on.

No document is dropped and none is cut that fits into a row; documents in a row are kept apart by the
row's `positions` and `document` arrays. Two algorithms, both pure functions of the lengths: best-fit-decreasing
(Johnson 1973), which handles all items of one length at once, and a minimum-bin-slack search (Gupta & Ho 1999)
that fills each row exactly where one or two items can. The search repacks what best-fit-decreasing left open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The search takes microseconds an item; beyond this many items only the worst rows are searched.
_SEARCHED_ITEMS = 40_000


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
    rows = best_fit_decreasing(lengths, row_length)
    count = int(rows.max()) + 1
    if count == -(-int(lengths.sum()) // row_length):
        return rows
    open_again = _rows_to_search(rows, lengths, row_length)
    items = np.flatnonzero(open_again[rows])
    searched = minimum_bin_slack(lengths[items], row_length)
    if int(searched.max()) + 1 >= int(open_again.sum()):
        return rows
    renumbered = np.cumsum(~open_again) - 1
    kept = int((~open_again).sum())
    result = renumbered[rows]
    result[items] = kept + searched
    return result


def best_fit_decreasing(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Longest first, each item goes into the row with the least room that still holds it: row of each item [N]."""
    order = np.argsort(-lengths, kind="stable")
    rows = np.empty(len(lengths), dtype=np.int64)
    values, counts = np.unique(lengths, return_counts=True)
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    # Bit r is set where by_room[r] is not empty: the tightest row that holds `length` is the lowest
    # set bit at or above it.
    occupied = 0
    made = place = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            above = occupied >> length
            room = length + (above & -above).bit_length() - 1 if above else row_length
            # A row that took an item is the tightest for the next of the same length while it has room.
            each = room // length
            wanted = -(-left // each)
            if above:
                held = by_room[room]
                taken = held[-wanted:]
                del held[-wanted:]
                if not held:
                    occupied &= ~(1 << room)
            else:
                taken = list(range(made, made + wanted))
                made += wanted
            now = min(left, each * len(taken))
            rows[order[place : place + now]] = np.repeat(taken, each)[:now]
            place, left = place + now, left - now
            last = now - each * (len(taken) - 1)
            for rest, group in ((room - each * length, taken[:-1]), (room - last * length, taken[-1:])):
                if group:
                    by_room[rest].extend(group)
                    occupied |= 1 << rest
    return rows


def _rows_to_search(rows: np.ndarray, lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Rows worth packing again, bool [rows]: the emptiest, then those made last, which hold the shortest items."""
    loads = np.bincount(rows, weights=lengths).astype(np.int64)
    number = np.arange(len(loads))
    order = np.lexsort((-number, -(row_length - loads)))
    chosen = np.zeros(len(loads), dtype=bool)
    chosen[order[np.cumsum(np.bincount(rows)[order]) <= _SEARCHED_ITEMS]] = True
    chosen[order[0]] = True
    return chosen


def minimum_bin_slack(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Each row takes the longest item left, then one or two that fill it exactly, else the longest that fits."""
    order = np.argsort(lengths, kind="stable")
    held = np.bincount(lengths, minlength=row_length + 1)
    # Items of one length are taken from the end of their stretch of `order`.
    ends = np.cumsum(held)
    rows = np.empty(len(lengths), dtype=np.int64)
    row, left, longest = 0, len(lengths), row_length
    while left:
        while not held[longest]:
            longest -= 1
        room, picked = row_length, [longest]
        while picked:
            for length in picked:
                held[length] -= 1
                ends[length] -= 1
                rows[order[ends[length]]] = row
            left -= len(picked)
            room -= sum(picked)
            picked = _complement(held, room)
        row += 1
    return rows


def _complement(held: np.ndarray, room: int) -> list[int]:
    """Lengths of the items to put into a row with `room` places left; empty where none fits."""
    if room <= 0 or held[room]:
        return [room] if room > 0 else []
    shorter = np.arange(1, room // 2 + 1)
    pairs = (held[shorter] > 0) & (held[room - shorter] > (shorter == room - shorter))
    if pairs.any():
        found = int(pairs.argmax()) + 1
        return [room - found, found]
    fitting = np.flatnonzero(held[:room])
    return [int(fitting[-1])] if len(fitting) else []
