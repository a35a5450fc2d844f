"""Rows over encoded documents, worked out once for each row length and choice of documents.

segments.npy   int64 [4, S]   start and length of each piece, whether its document goes on, its document
row_ends.npy   int64 [rows]   end of each row in the pieces
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexa.errors import DataError
from nexa.prepared import PreparedCache, PreparedEntry, damages
from nexa_torch.data.fingerprint import code_version, content_key
from nexa_torch.data.packing import Layout, Segments, arrange, split_documents
from nexa_torch.data.rows import RowCounts, Rows
from nexa_torch.data.store import TokenStore, save_array

_FOLDER = "rows"


@dataclass(frozen=True, kw_only=True)
class View:
    """Rows, the number of documents they were made of, and what a person should know about them."""

    rows: Rows
    documents: int
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How documents become rows.

    what: "training" or "validation", for messages. selection: JSON values that name the chosen documents, and
    `choose`, which finds them: ascending numbers of documents out of so many.
    """

    what: str
    row_length: int
    packing: bool
    pad_id: int
    conversations: bool
    selection: Mapping[str, Any]
    choose: Callable[[int], np.ndarray]


def open_view(
    entry: PreparedEntry, store: TokenStore, options: ViewOptions, *, on_wait: Callable[[str], None] | None = None
) -> View:
    """The rows of some prepared documents, made now or found.

    Raises DataError where none of the documents holds a token to train on.
    """
    cache = PreparedCache(entry.path, _FOLDER)
    fields = {
        "row_length": options.row_length,
        "packing": options.packing,
        "selection": options.selection,
        "code": code_version(),
    }
    key = content_key(fields)
    known = cache.get(key)
    if known is not None and any(damages(known)):
        # Made again from the tokens within moments.
        cache.remove(known)
    view = cache.build(key, lambda folder: _fill(folder, store, options), on_wait=on_wait)
    segments = np.load(view.path / "segments.npy", mmap_mode="r")
    layout = Layout(
        segments=Segments(start=segments[0], length=segments[1], continues=segments[2], document=segments[3]),
        row_ends=np.load(view.path / "row_ends.npy", mmap_mode="r"),
    )
    rows = Rows(
        source=store,
        layout=layout,
        counts=RowCounts(**view.index["counts"]),
        row_length=options.row_length,
        pad_id=options.pad_id,
    )
    return View(rows=rows, documents=view.index["documents"], warnings=_warnings(view.index, store, options))


def _fill(folder: Path, store: TokenStore, options: ViewOptions) -> dict[str, Any]:
    """Work out the rows and write them into a folder; returns the fields of its index."""
    lengths = store.lengths()
    chosen = options.choose(len(lengths))
    starts = np.cumsum(lengths) - lengths
    pieces = split_documents(starts[chosen], lengths[chosen], options.row_length)
    # Predictions of a piece: from its second token to the one behind it, where its document goes on.
    trained = store.trained_counts(pieces.start + 1, pieces.start + pieces.length + pieces.continues)
    useful = pieces.select(trained > 0)
    if not len(useful):
        raise DataError(
            f"{store.place(int(chosen[0]))}: neither here nor in any other {options.what} row is a token to train on"
        )
    layout = arrange(useful, options.row_length, packing=options.packing)
    segments = layout.segments
    save_array(
        folder / "segments.npy",
        np.stack([segments.start, segments.length, segments.continues, chosen[segments.document]]).astype(np.int64),
    )
    save_array(folder / "row_ends.npy", layout.row_ends.astype(np.int64))
    pieces_of = np.bincount(pieces.document, minlength=len(chosen))
    used = np.bincount(useful.document, minlength=len(chosen)) > 0
    return {
        "documents": len(chosen),
        "rows": len(layout.row_ends),
        "row_length": options.row_length,
        "packing": options.packing,
        "counts": {
            "tokens": int(useful.length.sum()),
            "trained_tokens": int(trained.sum()),
            "largest_token": store.largest_token,
        },
        "continued": _numbered(chosen[(pieces_of > 1) & used]),
        "idle": _numbered(chosen[~used]),
    }


def _numbered(documents: np.ndarray) -> list[int]:
    """How many documents, and the first of them, if any."""
    return [len(documents), *documents[:1].tolist()]


def _warnings(index: Mapping[str, Any], store: TokenStore, options: ViewOptions) -> list[str]:
    warnings = []
    total = index["documents"]
    continued, *first = index["continued"]
    if continued and options.conversations:
        warnings.append(
            f"{options.what} conversations longer than a row: {continued} of {total} (first: {store.place(first[0])}); "
            "they continue in further rows, which lack their beginning; "
            f"raise model.max_seq_len, now {options.row_length}, to keep them whole"
        )
    idle, *first = index["idle"]
    if idle:
        warnings.append(
            f"{options.what} documents left out for want of a token to train on: {idle} of {total} "
            f"(first: {store.place(first[0])})"
        )
    return warnings
