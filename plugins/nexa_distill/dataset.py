"""A distilled dataset: shards of recorded predictions and the index that says what they are.

    distilled_dataset.json    teacher, tokenizer, data, form of the records, quality, and every shard with its SHA-256
    capture.json              what the capture was asked for; there before the first shard
    shards/00000.safetensors  see `nexa_distill.shards`
    shards/00000.json         counts, quality and SHA-256 of a finished shard

Row t holds P(· | x≤t), the teacher's prediction of x(t+1). NumPy only; the loaders of all backends read it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nexa.distiller import DATASET_INDEX
from nexa.errors import DataError
from nexa.prepared import hash_file
from nexa_distill.records import Predictions, RecordSpec
from nexa_distill.shards import Shard

INDEX = DATASET_INDEX
DISTILLER = "logits"
FORMAT = "nexa-distilled"
VERSION = 1
ROW_MEANING = "row t is P(. | x[0..t]) and predicts x[t+1]"
_POSITION_BITS = 40
"""Bits of a place within a document; the number of the document stands above them."""


class DistilledDataset:
    """A finished dataset, open for reading.

    path: its folder. index: its index. spec: form of its records.
    """

    def __init__(self, path: Path) -> None:
        """path: the folder or its index. Raises DataError where there is none that this version reads."""
        self.path, self.index = read_index(path)
        record = self.index["record"]
        self.spec = RecordSpec(
            mode=record["mode"], draws=record["draws"], head=record["head"], temperature=record["temperature"]
        )
        self._shards: list[Shard | None] = [None] * len(self.index["shards"])
        self._first_rows = np.cumsum([0, *(entry["tokens"] for entry in self.index["shards"])])

    def __len__(self) -> int:
        """Tokens, each with a row that may be empty."""
        return int(self._first_rows[-1])

    @property
    def vocabulary(self) -> int:
        """Number of token ids that predictions are over."""
        return int(self.index["tokenizer"]["vocabulary"])

    def shard(self, number: int) -> Shard:
        """One shard, opened when it is first asked for. Raises DataError where it is damaged."""
        found = self._shards[number]
        if found is None:
            entry = self.index["shards"][number]
            found = Shard(self.path / entry["file"])
            if len(found) != entry["tokens"] or found.recorded != entry["recorded"]:
                raise DataError(f"shard {found.path} is not the one that {INDEX} names")
            self._shards[number] = found
        return found

    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return map(self.shard, range(len(self._shards)))

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Key of each piece's first token, ascending; its row in all shards end to end; its length."""
        keys, rows, lengths = [], [], []
        for number, shard in enumerate(self.shards()):
            keys.append(place_keys(shard.pieces.document, shard.pieces.position))
            rows.append(self._first_rows[number] + shard.starts)
            lengths.append(shard.pieces.length)
        return np.concatenate(keys), np.concatenate(rows), np.concatenate(lengths)

    def find(self, document: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Row of each place of a document, int64; -1 where the dataset has none."""
        keys, rows, lengths = self._places
        wanted = place_keys(document, position)
        piece = np.searchsorted(keys, wanted, side="right") - 1
        offset = wanted - keys[piece]
        return np.where((piece >= 0) & (offset < lengths[piece]), rows[piece] + offset, -1)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Predictions]:
        """Tokens and predictions of the rows `start` ≤ t < `stop` of all shards end to end."""
        tokens, parts = [], []
        while start < stop:
            number = int(np.searchsorted(self._first_rows, start, side="right")) - 1
            first = int(self._first_rows[number])
            end = min(stop, int(self._first_rows[number + 1]))
            shard = self.shard(number)
            tokens.append(np.asarray(shard.tokens[start - first : end - first]))
            parts.append(shard.read(start - first, end - first))
            start = end
        return np.concatenate(tokens), Predictions.join(parts)


def place_keys(document: np.ndarray, position: np.ndarray) -> np.ndarray:
    """One ascending number for a place in a document, int64."""
    return (document.astype(np.int64) << _POSITION_BITS) + position


def read_index(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a dataset and its index. Raises DataError where it is none, or of another version."""
    folder = path.parent if path.name == INDEX else path
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except FileNotFoundError:
        unfinished = (folder / "capture.json").exists()
        reason = "the capture into it was not finished" if unfinished else "it is no distilled dataset"
        hint = (
            "type the same nexa distill capture again to continue it"
            if unfinished
            else "make one with: nexa distill capture"
        )
        raise DataError(f"{folder} has no {INDEX}: {reason}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INDEX} can't be read: {error}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError(f"{folder / INDEX} is not the index of a distilled dataset")
    if index.get("version") != VERSION:
        raise DataError(f"{folder / INDEX} has version {index.get('version')}; this Nexa reads version {VERSION}")
    return folder, index


def damages(folder: Path, index: Mapping[str, Any], sha256_of: Callable[[Path], str] = hash_file) -> Iterator[str]:
    """What is wrong with the files of a dataset, one line each; nothing when every hash is right."""
    for entry in index["shards"]:
        path = folder / entry["file"]
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                yield f"{path} has {size:,} bytes instead of {entry['bytes']:,}"
            elif sha256_of(path) != entry["sha256"]:
                yield f"{path} does not have the SHA-256 it was written with"
        except FileNotFoundError:
            yield f"{path} is missing"
        except OSError as error:
            yield f"{path} can't be read: {error.strerror}"


def require_whole(dataset: DistilledDataset, sha256_of: Callable[[Path], str] = hash_file) -> None:
    """Raise DataError naming the first damaged file of a dataset."""
    damage = next(damages(dataset.path, dataset.index, sha256_of), None)
    if damage is not None:
        raise DataError(
            f"the distilled dataset is damaged: {damage}",
            hint="type its nexa distill capture again: whole shards are kept, others made anew",
        )
