"""A distiller: writes, document by document, what a teacher predicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.distiller import CaptureEstimate, CaptureProgress, Distiller
from nexa.errors import Problem
from nexa_echo.bytecounts import ByteCounts, read_documents

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

_TOP = 4
_BYTES_PER_DOCUMENT = 64


class CountsDistiller(Distiller):
    """The teacher is the byte counts of the data itself."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """The data file must exist."""
        if Path(recipe.data.remote_uri).is_file():
            return []
        return [Problem(path="data.remote_uri", message=f"there is no file {recipe.data.remote_uri}")]

    def estimate(self, recipe: Recipe) -> CaptureEstimate:
        """One short file per document."""
        documents = read_documents(Path(recipe.data.remote_uri))
        return CaptureEstimate(tokens=sum(map(len, documents)), bytes=_BYTES_PER_DOCUMENT * len(documents))

    def capture(self, recipe: Recipe, output_dir: Path, *, on_progress: CaptureProgress | None = None) -> Path:
        """Write a file per document, then the index; files that are there already are kept."""
        documents = read_documents(Path(recipe.data.remote_uri))
        shards = output_dir / "documents"
        shards.mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(documents):
            if on_progress is not None:
                on_progress("capturing", number, len(documents))
            path = shards / f"{number:06d}.json"
            if not path.exists():
                _write(path, {"likeliest": list(_taught(document).likeliest(_TOP))})
        index = output_dir / "distilled_dataset.json"
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shards.iterdir())}
        _write(index, {"distiller": "echo-counts", "documents": digests})
        return index


def _taught(document: bytes) -> ByteCounts:
    model = ByteCounts()
    model.learn([document])
    return model


def _write(path: Path, value: object) -> None:
    """Write JSON whole: a capture killed half-way leaves no half a file under its final name."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")
    temporary.replace(path)
