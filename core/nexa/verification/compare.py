"""Compares two runs of the same recipe: their figures step by step, and what their checkpoints hold."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.artifacts import MANIFEST_NAME
from nexa.errors import ArtifactError
from nexa.events.reader import EventReader
from nexa.runs.store import Run

_TRAINING_FIGURES = ("loss", "grad_norm", "lr")
_TENSOR_SUFFIX = ".safetensors"
_LARGEST_HEADER = 100 << 20


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where two runs differ.

    step: optimizer step. name: a figure such as "loss", or a tensor as FILE:NAME. expected, found: of
    the undisturbed run and of the one that was cut, as text.
    """

    step: int
    name: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.name} at step {self.step}: {self.expected} undisturbed, {self.found} cut and resumed"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared, and the first difference of each kind; None where there is none.

    figures: values compared. tensors, bytes: of all checkpoints that both runs have, in which the last
    step's is. checkpoints: their steps.
    """

    figures: int
    checkpoints: tuple[int, ...]
    tensors: int
    bytes: int
    figure_difference: Difference | None = None
    tensor_difference: Difference | None = None

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs in a single bit."""
        return self.figure_difference is None and self.tensor_difference is None

    @property
    def first_step(self) -> int | None:
        """The first step that shows a difference."""
        steps = [item.step for item in (self.figure_difference, self.tensor_difference) if item is not None]
        return min(steps, default=None)


Figures = dict[tuple[int, str], list[float]]


def read_figures(run: Run) -> Figures:
    """Losses, norms, rates and evaluations by (step, name): a value for each attempt that took the step."""
    figures: Figures = {}
    for attempt in run.attempts:
        for record in EventReader(attempt.events_path).poll():
            if record.get("type") not in ("metrics", "eval"):
                continue
            for name, value in record["values"].items():
                if record["type"] == "eval" or name in _TRAINING_FIGURES:
                    figures.setdefault((record["step"], name), []).append(math.nan if value is None else value)
    return figures


def compare_figures(expected: Figures, found: Figures) -> tuple[int, Difference | None]:
    """Number of values compared, and the first step at which one differs.

    Every value of a step that was taken again after a cut must be the same, not only the last.
    """
    compared = 0
    for step, name in sorted(expected.keys() | found.keys()):
        one, others = expected.get((step, name)), found.get((step, name))
        if one is None or others is None:
            texts = [_text(values[0]) if values else "not recorded" for values in (one, others)]
            return compared, Difference(step=step, name=name, expected=texts[0], found=texts[1])
        for value in others:
            compared += 1
            if not _same(one[0], value):
                return compared, Difference(step=step, name=name, expected=_text(one[0]), found=_text(value))
    return compared, None


def compare_checkpoints(step: int, expected: Path, found: Path) -> tuple[int, int, Difference | None]:
    """Tensors compared, their bytes, and the first that differs, of two checkpoints of the same step.

    A checkpoint without safetensors files is compared file by file. Raises ArtifactError for a file
    that is no safetensors file.
    """
    one, other = _parts(expected), _parts(found)
    compared = size = 0
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            texts = ["there" if name in parts else "not there" for parts in (one, other)]
            return compared, size, Difference(step=step, name=name, expected=texts[0], found=texts[1])
        left, right = one[name], other[name]
        if left.kind != right.kind:
            return compared, size, Difference(step=step, name=name, expected=left.kind, found=right.kind)
        if left.digest() != right.digest():
            texts = [f"sha256 {part.digest()[:12]}…" for part in (left, right)]
            return compared, size, Difference(step=step, name=name, expected=texts[0], found=texts[1])
        compared, size = compared + 1, size + left.length
    return compared, size, None


@dataclass(frozen=True)
class _Part:
    """Bytes of a file. kind: dtype and shape of a tensor, or "file"."""

    file: Path
    start: int
    length: int
    kind: str

    def digest(self) -> str:
        hasher = hashlib.sha256()
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            left = self.length
            while left and (block := stream.read(min(left, 1 << 20))):
                hasher.update(block)
                left -= len(block)
        return hasher.hexdigest()


def _parts(folder: Path) -> dict[str, _Part]:
    """Every tensor of a checkpoint by FILE:NAME, or every file where it has no tensors."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    names = {path: path.relative_to(folder).as_posix() for path in files}
    tensors = {
        f"{names[path]}:{name}": part
        for path in files
        if path.suffix == _TENSOR_SUFFIX
        for name, part in _tensors(path)
    }
    return tensors or {name: _Part(path, 0, path.stat().st_size, "file") for path, name in names.items()}


def _tensors(file: Path) -> Iterator[tuple[str, _Part]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError("its header is too long")
            header: Mapping[str, Any] = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield name, _Part(file, 8 + length + start, end - start, f"{entry['dtype']} {entry['shape']}")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ArtifactError(f"{file} can't be read as safetensors: {error}") from error


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _text(value: float) -> str:
    return repr(value)
