"""Encoded documents on disk: shards of NumPy arrays, read through memory maps.

    00000.tokens.npy    uint16 or uint32 [N]  token ids, all documents of the shard end to end
    00000.trained.npy   uint8 [ceil(N/8)]     one bit a token, lowest first: predicting it carries loss;
                                              absent where every token is trained
    00000.ends.npy      int64 [documents]     end of each document in the shard's tokens
    00000.json          counts, and where the documents were read; written last, so a shard with it is whole

No document lies in two shards.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexa.files import read_json, write_json
from nexa_torch.data.encode import Encoded, EncodedBatch

SHARD_TOKENS = 8_000_000
"""A shard is closed when it holds this many tokens; a kill loses at most the work on one."""


class TokenWriter:
    """Writes encoded documents into shards, behind the finished shards that the folder holds already."""

    def __init__(
        self, folder: Path, *, names: Sequence[str], vocabulary: int, masked: bool, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        """names: of the files read; places keep their numbers, since the same data may lie elsewhere another time.

        vocabulary: number of token ids. masked: store which tokens are trained; else all are.
        """
        self._numbers = {name: number for number, name in enumerate(names)}
        self._folder = folder
        self._dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        self._masked = masked
        self._shard_tokens = shard_tokens
        self._shards = _finished_shards(folder)
        self._pending: list[Encoded] = []
        self._places: list[str] = []
        self._special_text: list[str] = []
        self._kind: dict[str, Any] = {}
        self._pending_tokens = 0

    @property
    def documents(self) -> int:
        """Documents in finished shards; the next one to add is this one, counted from 0."""
        return sum(int(shard["documents"]) for shard in self._shards)

    def add(self, batch: EncodedBatch) -> None:
        """Append documents."""
        self._pending.append(batch.encoded)
        self._places += batch.places
        self._special_text += batch.special_text
        self._kind = {"conversations": batch.conversations, "warnings": batch.warnings}
        self._pending_tokens += len(batch.encoded.tokens)
        if self._pending_tokens >= self._shard_tokens:
            self._close_shard()

    def finish(self) -> dict[str, Any]:
        """Close the last shard and return the store's counts for the index of its folder."""
        if self._pending:
            self._close_shard()
        return {
            "documents": self.documents,
            "tokens": sum(int(shard["tokens"]) for shard in self._shards),
            "shards": len(self._shards),
            "conversations": any(shard["conversations"] for shard in self._shards),
            "warnings": list(dict.fromkeys(warning for shard in self._shards for warning in shard["warnings"])),
        }

    def _close_shard(self) -> None:
        name = f"{len(self._shards):05d}"
        tokens = np.concatenate([encoded.tokens for encoded in self._pending])
        lengths = np.concatenate([encoded.lengths for encoded in self._pending])
        save_array(self._folder / f"{name}.tokens.npy", tokens.astype(self._dtype))
        save_array(self._folder / f"{name}.ends.npy", np.cumsum(lengths, dtype=np.int64))
        if self._masked:
            trained = np.concatenate([encoded.trained for encoded in self._pending])
            save_array(self._folder / f"{name}.trained.npy", np.packbits(trained, bitorder="little"))
        record = {
            **self._kind,
            "documents": len(lengths),
            "tokens": len(tokens),
            "largest_token": int(tokens.max(initial=0)),
            "places": _runs(self._places, self._numbers),
            "special_text": [len(self._special_text), *_runs(self._special_text[:1], self._numbers)],
        }
        write_json(self._folder / f"{name}.json", record)
        self._shards.append(record)
        self._pending, self._places, self._special_text, self._pending_tokens = [], [], [], 0


class TokenStore:
    """Encoded documents to read from, by document and by place in all tokens end to end.

    folder: where they lie. names: of the files they were read from.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """names: of the files of the same data as they are now."""
        self.folder = folder
        self.names = names
        self._records = _finished_shards(folder)
        self._first_tokens = _starts([int(record["tokens"]) for record in self._records])
        self._first_documents = _starts([int(record["documents"]) for record in self._records])
        self._tokens: list[np.ndarray | None] = [None] * len(self._records)
        self._trained: list[np.ndarray | None] = [None] * len(self._records)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self._first_documents[-1]

    @property
    def largest_token(self) -> int:
        """Largest token id of all."""
        return max((int(record["largest_token"]) for record in self._records), default=0)

    def special_text(self) -> tuple[int, str]:
        """How many documents hold the text of a special token, and where the first was read."""
        found = [record["special_text"] for record in self._records if record["special_text"][0]]
        if not found:
            return 0, ""
        _, file, row = found[0][1]
        return sum(int(marks[0]) for marks in found), f"{self.names[file]}:{row}"

    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 [documents]."""
        ends = [np.load(self.folder / f"{i:05d}.ends.npy") for i in range(len(self._records))]
        return np.concatenate([np.diff(shard, prepend=0) for shard in ends] or [np.empty(0, dtype=np.int64)])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and trained marks (bool) of the places `start` ≤ i < `stop`, which lie in one shard."""
        shard = bisect_right(self._first_tokens, start) - 1
        first = self._first_tokens[shard]
        tokens, trained = self._maps(shard)
        piece = tokens[start - first : stop - first]
        return piece, _bits(trained, start - first, stop - first)

    def trained_counts(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Trained tokens in each range `starts[i]` ≤ place < `stops[i]`, ranges ascending: int64 [ranges]."""
        counts = stops - starts
        for shard, first in enumerate(self._first_tokens[:-1]):
            tokens, bits = self._maps(shard)
            if bits is None:
                continue
            here = slice(*np.searchsorted(starts, [first, self._first_tokens[shard + 1]]))
            # 32 bits count the tokens of any shard that is not one giant document.
            before = np.zeros(len(tokens) + 1, dtype=np.int64)
            np.cumsum(np.unpackbits(bits, count=len(tokens), bitorder="little"), out=before[1:])
            counts[here] = before[stops[here] - first] - before[starts[here] - first]
        return counts

    def place(self, document: int) -> str:
        """Where a document was read, as "file:row"."""
        shard = bisect_right(self._first_documents, document) - 1
        within = document - self._first_documents[shard]
        runs = self._records[shard]["places"]
        first, file, row = runs[bisect_right(runs, within, key=lambda run: run[0]) - 1]
        return f"{self.names[file]}:{row + within - first}"

    def _maps(self, shard: int) -> tuple[np.ndarray, np.ndarray | None]:
        tokens = self._tokens[shard]
        if tokens is None:
            tokens = self._tokens[shard] = _mapped(self.folder / f"{shard:05d}.tokens.npy")
            path = self.folder / f"{shard:05d}.trained.npy"
            self._trained[shard] = _mapped(path) if path.exists() else None
        return tokens, self._trained[shard]


class TokenArrays:
    """The same reading interface over arrays in memory: `tokens` [N], `trained` bool [N]."""

    def __init__(self, tokens: np.ndarray, trained: np.ndarray) -> None:
        self._tokens, self._trained = tokens, trained

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and trained marks of the places `start` ≤ i < `stop`."""
        return self._tokens[start:stop], self._trained[start:stop]


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, durably. Raises OSError with the system's reason, which `numpy.save` hides."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(whole))
        stream.write(whole.data)
        stream.flush()
        os.fsync(stream.fileno())


def _mapped(path: Path) -> np.ndarray:
    # A view without the memmap class: slicing that costs ten times as much.
    return np.asarray(np.load(path, mmap_mode="r"))


def _bits(bits: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    if bits is None:
        return np.ones(stop - start, dtype=bool)
    first = start // 8
    unpacked = np.unpackbits(bits[first : -(-stop // 8)], bitorder="little")
    return unpacked[start - 8 * first : stop - 8 * first].view(bool)


def _finished_shards(folder: Path) -> list[dict[str, Any]]:
    records = []
    while (record := read_json(folder / f"{len(records):05d}.json")) is not None:
        records.append(record)
    return records


def _starts(counts: Sequence[int]) -> list[int]:
    """Where each of some stretches begins, and where the last one ends."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts


def _runs(places: Sequence[str], numbers: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """Places "file:row" as (index, number of the file, row) wherever one does not follow from the one before it."""
    runs: list[tuple[int, int, int]] = []
    last_file, last_row = "", -1
    for index, place in enumerate(places):
        file, _, text = place.rpartition(":")
        row = int(text)
        if file != last_file or row != last_row + 1:
            runs.append((index, numbers[file], row))
        last_file, last_row = file, row
    return runs
