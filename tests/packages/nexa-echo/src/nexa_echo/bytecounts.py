"""A model of one byte at a time: how often each was seen. Standard library only."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from nexa.errors import DataError

MODEL_NAME = "byte-counts"
SYMBOLS = 256
_TEXT_KEYS = ("text", "prompt", "response")


class ByteCounts:
    """Byte frequencies with one count added to each, so that every byte is possible."""

    def __init__(self, counts: list[int] | None = None) -> None:
        self.counts = counts or [1] * SYMBOLS

    def loss(self, documents: list[bytes]) -> float:
        """Mean negative log-likelihood of the documents' bytes, in nats."""
        total = math.log(sum(self.counts))
        seen = Counter(byte for document in documents for byte in document)
        bytes_seen = seen.total()
        return sum(n * (total - math.log(self.counts[byte])) for byte, n in seen.items()) / max(1, bytes_seen)

    def learn(self, documents: list[bytes]) -> None:
        """Count the documents' bytes."""
        for document in documents:
            for byte in document:
                self.counts[byte] += 1

    def likeliest(self, count: int) -> bytes:
        """The `count` most frequent bytes, most frequent first."""
        return bytes(sorted(range(SYMBOLS), key=lambda byte: -self.counts[byte])[:count])

    def save(self, folder: Path, step: int) -> None:
        """Write the counts into a folder."""
        document = {"step": step, "counts": self.counts}
        (folder / "counts.json").write_text(json.dumps(document), encoding="ascii")

    @classmethod
    def load(cls, folder: Path) -> tuple[ByteCounts, int]:
        """Read what `save` wrote: the model and its step."""
        document = json.loads((folder / "counts.json").read_text(encoding="ascii"))
        return cls(document["counts"]), document["step"]


def read_documents(path: Path) -> list[bytes]:
    """The documents of a JSONL file, one a row. Raises DataError, naming the row."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    documents = [_document(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not documents:
        raise DataError(f"{path} has no rows")
    return documents


def _document(line: str, place: str) -> bytes:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict) or not any(isinstance(row.get(key), str) for key in _TEXT_KEYS):
        raise DataError(f"{place}: no text under any of {', '.join(_TEXT_KEYS)}")
    return "\n".join(row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)).encode()
