"""Whether a distilled dataset is what a recipe's student can learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nexa.distilled import find_dataset
from nexa.errors import DataError, UserError
from nexa_distill.dataset import DistilledDataset, require_whole
from nexa_torch.data.hashes import HashMemory
from nexa_torch.data.prepare import PreparedData, data_cache
from nexa_torch.data.rows import Rows
from nexa_torch.data.store import TokenStore

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

_CAPTURE_AGAIN = "capture again with this recipe: nexa distill capture RECIPE --output FOLDER"


def open_matching(recipe: Recipe, data: PreparedData) -> DistilledDataset:
    """The recipe's distilled dataset, whole and captured over the same tokens.

    Raises UserError saying what differs, DataError where shards are damaged or predictions are missing.
    """
    from nexa_distill.plan import data_identity, tokenizer_identity

    assert recipe.distill.dataset is not None, "the recipe was checked"
    dataset = DistilledDataset(find_dataset(recipe.distill.dataset, recipe.artifacts.store_uri))
    _require_temperature(recipe, dataset)
    _require_teacher(recipe, dataset)
    captured, own = dataset.index["tokenizer"], tokenizer_identity(data)
    if captured["vocabulary"] != own["vocabulary"]:
        raise UserError(
            f"{dataset.path} was captured over {captured['vocabulary']:,} tokens and the student's tokenizer has "
            f"{own['vocabulary']:,}",
            hint="recorded predictions need the teacher's tokenizer: set model.tokenizer to it",
        )
    if captured["chat_template_sha256"] != own["chat_template_sha256"]:
        raise UserError(f"{dataset.path} was captured with another chat template", hint=_CAPTURE_AGAIN)
    if captured["sha256"] != own["sha256"]:
        raise UserError(f"{dataset.path} was captured with another tokenizer of the same size", hint=_CAPTURE_AGAIN)
    # Rows of another length are other pieces of the same documents; whether all are there is seen below.
    changed = _changed(
        dataset.index["data"], data_identity(recipe, data), ignored={"row_length", "documents", "format"}
    )
    if changed:
        raise UserError(f"{dataset.path} was captured over other data: {changed}", hint=_CAPTURE_AGAIN)
    require_whole(dataset, HashMemory(data_cache(recipe.data)).of_file)
    return dataset


def _require_temperature(recipe: Recipe, dataset: DistilledDataset) -> None:
    captured = dataset.spec.temperature
    if captured != recipe.distill.temperature:
        raise UserError(
            f"distill.temperature is {recipe.distill.temperature:g} and {dataset.path} was captured at {captured:g}: "
            "what was left out of a record can't be reshaped afterwards",
            hint=f"set distill.temperature={captured:g}, or capture again",
        )


def _require_teacher(recipe: Recipe, dataset: DistilledDataset) -> None:
    from nexa_distill.teacher import TeacherName

    if recipe.distill.teacher is None:
        return
    teacher, captured = TeacherName.of(recipe), dataset.index["teacher"]
    if teacher.revision != captured["revision"]:
        raise UserError(
            f"{dataset.path} was captured from revision {captured['revision']} of its teacher and the recipe says "
            f"{teacher.revision}",
            hint=_CAPTURE_AGAIN,
        )
    try:
        own = teacher.sha256(HashMemory(data_cache(recipe.data)))
    except UserError:
        # Where students are trained the teacher need not be; its name is what is left to compare.
        own = captured["sha256"] if teacher.name == captured["name"] else ""
    if own != captured["sha256"]:
        raise UserError(
            f"{dataset.path} was captured from teacher {captured['name']} (SHA-256 {captured['sha256'][:12]}…), which "
            f"is not the recipe's {teacher.name}",
            hint=f"{_CAPTURE_AGAIN}; or leave distill.teacher out",
        )


def _changed(captured: dict[str, Any], own: dict[str, Any], *, ignored: set[str]) -> str:
    return ", ".join(
        f"{name} was {captured.get(name)!r}, now {value!r}"
        for name, value in own.items()
        if name not in ignored and captured.get(name) != value
    )


class RecordedRows:
    """The recorded predictions of token rows.

    Raises DataError where a row has a token to train on without a prediction.
    """

    def __init__(self, rows: Rows, dataset: DistilledDataset) -> None:
        assert isinstance(rows.source, TokenStore), "rows over a token store"
        self.dataset = dataset
        lengths = rows.source.lengths()
        self._document_ends = np.cumsum(lengths)
        self._document_starts = self._document_ends - lengths
        segments = rows.segments
        last = segments.length - 2 + segments.continues
        for places in (segments.start, segments.start + np.maximum(last, 0)):
            if (found := self.find(np.asarray(places))).min(initial=0) < 0:
                document = int(segments.document[int(found.argmin())])
                raise DataError(
                    f"{dataset.path} has no prediction for {rows.source.place(document)}",
                    hint="capture over the same rows; data.max_documents was lower then",
                )

    def find(self, places: np.ndarray) -> np.ndarray:
        """Row of the dataset for each place of the token store, -1 where there is none."""
        document = np.searchsorted(self._document_ends, places, side="right")
        return self.dataset.find(document, places - self._document_starts[document])

    def entries(self, places: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Entries of the predictions at some places: "rows", "ids", "weights" and "ends" of TeacherEntries.

        places: int64 [n]; tokens: int [n], what the rows hold there. Raises DataError where the dataset holds others.
        """
        wanted = self.find(places)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        # What lies close together is read at once: a gap costs less than another read.
        cuts = np.flatnonzero(np.diff(ascending) > _GAP) + 1
        parts, found_tokens = [], []
        for run in np.split(ascending, cuts):
            read_tokens, read = self.dataset.read(int(run[0]), int(run[-1]) + 1)
            chosen = run - run[0]
            parts.append(read.select(chosen, self.dataset.spec.head))
            found_tokens.append(read_tokens[chosen])
        return self._arranged(parts, np.concatenate(found_tokens), order, places, tokens)

    def _arranged(self, parts: Any, found: np.ndarray, order: np.ndarray, places: Any, tokens: Any) -> Any:
        from nexa_distill.records import Predictions

        joined = Predictions.join(parts)
        if not np.array_equal(found, tokens[order]):
            raise DataError(f"{self.dataset.path} was captured over other tokens", hint=_CAPTURE_AGAIN)
        if len(joined.entries) and joined.entries.min() == 0:
            raise DataError(
                f"{self.dataset.path} has no prediction for a token that is trained on", hint=_CAPTURE_AGAIN
            )
        weights, rows = joined.weights(self.dataset.spec), order[joined.rows()]
        back = np.argsort(rows, kind="stable")
        counts = np.empty(len(order), dtype=np.int64)
        counts[order] = joined.entries
        return {
            "rows": rows[back],
            "ids": joined.ids[back].astype(np.int64),
            "weights": weights[back],
            "ends": np.cumsum(counts),
        }


_GAP = 64
