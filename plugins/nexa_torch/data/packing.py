"""Put documents into rows: best-fit-decreasing, so that little padding is computed on.

No document is dropped and none is cut that fits into a row; documents in a row are kept apart by the
row's `positions` and `document` arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nexa_torch.data.rows import Segment


def split_document(start: int, length: int, row_length: int) -> list[Segment]:
    """Cut one document into pieces of at most `row_length` tokens; no token and no prediction is lost."""
    return [
        Segment(start=start + offset, length=min(row_length, length - offset), continues=offset + row_length < length)
        for offset in range(0, length, row_length)
    ]


def pack(lengths: np.ndarray, row_length: int) -> list[list[int]]:
    """Assign items to rows by best-fit-decreasing; returns the item numbers of each row.

    lengths: tokens of each item, 1 ≤ length ≤ row_length. Longest first, each item goes into the row
    with the least room that still holds it. Equal lengths keep their order, so the result is a pure
    function of `lengths`.
    """
    if len(lengths) and not (int(lengths.min()) >= 1 and int(lengths.max()) <= row_length):
        raise AssertionError(f"lengths {lengths.min()}..{lengths.max()} do not fit rows of {row_length}")
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    # Bit r is set where by_room[r] is not empty: the tightest row that holds `length` is the lowest
    # set bit at or above it.
    occupied = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        above = occupied >> length
        if above:
            room = length + (above & -above).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                occupied &= ~(1 << room)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(item)
        by_room[room - length].append(row)
        occupied |= 1 << (room - length)
    return rows


def arrange(segments: Sequence[Segment], row_length: int, *, packing: bool) -> list[list[Segment]]:
    """Rows of segments: packed, or one segment a row in the given order."""
    if not packing:
        return [[segment] for segment in segments]
    lengths = np.array([segment.length for segment in segments], dtype=np.int64)
    return [[segments[item] for item in row] for row in pack(lengths, row_length)]
