"""One file of a distilled dataset: documents, their tokens, and a prediction for each token that needs one.

A shard is a safetensors file, so that anything reads it, with these arrays (n tokens in P pieces of documents,
r of them with a prediction, E entries):

    tokens      uint16 or uint32 [n]   the pieces end to end
    trained     uint8 [ceil(n/8)]      one bit a token, lowest first: the token is one to predict
    documents   int64 [P, 3]           of each piece: number of its document, place in it, end in `tokens`
    entries     uint8 [n]              entries of row t, the prediction P(· | x≤t) of x(t+1); 0 where none is recorded
    blocks      int64 [ceil(n/256), 2] entries, and rows with entries, before each block of 256 rows
    low, high   uint16 [E], uint8 [E]  see `nexa_distill.records`
    head        float16 [r × head]     log probabilities of exact entries
    truth       float16 [r]            log probability of the token that followed
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nexa.errors import DataError
from nexa_distill.records import Predictions, pack_entries, unpack_entries

BLOCK = 256
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I64": np.int64, "F16": np.float16}
_NAMES = frozenset({"tokens", "trained", "documents", "entries", "blocks", "low", "high", "head", "truth"})
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Pieces of documents: number of the document, place of the first token in it, and length; int64 [P] each."""

    document: np.ndarray
    position: np.ndarray
    length: np.ndarray


def write_shard(
    path: Path, pieces: Pieces, tokens: np.ndarray, trained: np.ndarray, predictions: Predictions, *, vocabulary: int
) -> None:
    """Write a shard whole and durably under its name, or not at all; for the rest see `shard_bytes`. Raises OSError."""
    data = shard_bytes(pieces, tokens, trained, predictions, vocabulary=vocabulary)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def shard_bytes(
    pieces: Pieces, tokens: np.ndarray, trained: np.ndarray, predictions: Predictions, *, vocabulary: int
) -> bytes:
    """A shard as it lies in its file.

    tokens, trained: [n], all pieces end to end; predictions: n rows.
    """
    from safetensors.numpy import save

    low, high = pack_entries(predictions.ids, predictions.counts)
    ends = np.cumsum(pieces.length)
    return save(
        {
            "tokens": tokens.astype(np.uint16 if vocabulary <= 1 << 16 else np.uint32),
            "trained": np.packbits(trained, bitorder="little"),
            "documents": np.stack([pieces.document, pieces.position, ends], axis=1).astype(np.int64),
            "entries": predictions.entries.astype(np.uint8),
            "blocks": _blocks(predictions.entries),
            "low": low,
            "high": high,
            "head": predictions.head_log_p.astype(np.float16),
            "truth": predictions.truth_log_p.astype(np.float16),
        }
    )


def _blocks(entries: np.ndarray) -> np.ndarray:
    """Entries and recorded rows before each block of rows."""
    counts = np.stack([entries.astype(np.int64), (entries > 0).astype(np.int64)], axis=1)
    before = np.cumsum(counts, axis=0) - counts
    return np.ascontiguousarray(before[::BLOCK])


class Shard:
    """A shard, memory-mapped. Raises DataError where the file is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = _mapped(path)
        self.tokens = self._arrays["tokens"]
        documents = self._arrays["documents"]
        ends = np.asarray(documents[:, 2])
        self.pieces = Pieces(
            document=np.asarray(documents[:, 0]),
            position=np.asarray(documents[:, 1]),
            length=np.diff(ends, prepend=0),
        )
        self.starts = ends - self.pieces.length
        recorded = len(self._arrays["truth"])
        self.head = len(self._arrays["head"]) // recorded if recorded else 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def recorded(self) -> int:
        """Rows with a prediction."""
        return len(self._arrays["truth"])

    def trained(self) -> np.ndarray:
        """Whether each token is one to predict, bool [n]."""
        return np.unpackbits(self._arrays["trained"], count=len(self), bitorder="little").view(bool)

    def read(self, start: int, stop: int) -> Predictions:
        """Predictions of the rows `start` ≤ t < `stop`."""
        arrays = self._arrays
        block = start // BLOCK
        entries = arrays["entries"][block * BLOCK : stop]
        skipped, entries = entries[: start - block * BLOCK], entries[start - block * BLOCK :]
        first, first_row = arrays["blocks"][block] if block < len(arrays["blocks"]) else (0, 0)
        first = int(first) + int(skipped.sum(dtype=np.int64))
        first_row = int(first_row) + int(np.count_nonzero(skipped))
        last = first + int(entries.sum(dtype=np.int64))
        last_row = first_row + int(np.count_nonzero(entries))
        ids, counts = unpack_entries(arrays["low"][first:last], arrays["high"][first:last])
        head = arrays["head"][first_row * self.head : last_row * self.head]
        return Predictions(
            entries=np.asarray(entries),
            ids=ids,
            counts=counts,
            head_log_p=head.astype(np.float32),
            truth_log_p=arrays["truth"][first_row:last_row].astype(np.float32),
        )


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as views of a memory map. Raises DataError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
                raise ValueError("its header has no sensible length")
            header = json.loads(stream.read(length))
        whole = np.memmap(path, dtype=np.uint8, mode="r")
        arrays = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            raw = np.asarray(whole[8 + length + start : 8 + length + stop])
            arrays[name] = raw.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if missing := _NAMES - set(arrays):
            raise ValueError(f"it has no array {', '.join(sorted(missing))}")
    except FileNotFoundError:
        raise DataError(f"shard {path} is missing", hint="capture again into the same folder to make it anew") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"shard {path} is damaged: {error}", hint="capture again into the same folder to make it anew"
        ) from None
    return arrays
