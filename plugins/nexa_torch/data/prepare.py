"""The whole way from a recipe to token rows.

Documents are encoded once and kept in the cache folder, keyed by all that they depend on; rows are worked out over them
for each row length and choice of documents, and read through memory maps. Of processes that ask at once, one does
the work. A document longer than a row continues in further rows, with no prediction lost; what stands in them
can't see what stands before, so for conversations a warning counts them. Pieces without a
token to train on are left out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nexa.backend import PrepareProgress
from nexa.errors import DataError
from nexa.prepared import PreparedCache, PreparedEntry, cache_root, require_whole
from nexa_torch.data.documents import Document, parse_documents
from nexa_torch.data.encode import Encoder
from nexa_torch.data.fingerprint import code_version, content_key, tokenizer_fingerprint
from nexa_torch.data.hashes import HashMemory
from nexa_torch.data.order import held_out
from nexa_torch.data.readers import FIELDS
from nexa_torch.data.rows import Rows
from nexa_torch.data.sources import Source, open_source
from nexa_torch.data.store import TokenStore, TokenWriter
from nexa_torch.data.streaming import StreamedRows, StreamOptions, silent
from nexa_torch.data.streams import open_stream
from nexa_torch.data.tokenizer import load_tokenizer, row_length
from nexa_torch.data.views import View, ViewOptions, open_view

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe
    from nexa.recipe.sections.data import DataSection


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Data ready to train on.

    train, validation: token rows; validation is None when the recipe holds nothing out.
    row_length: most tokens in a row. dataset_hash: SHA-256 of the training data, in hex.
    documents, validation_documents: their numbers; of a stream those of the first window.
    summary: one line with the counts. warnings: what a person should know before training, in words.
    entries: the prepared folders in use. reused: nothing was encoded anew.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Rows | StreamedRows
    validation: Rows | None
    row_length: int
    dataset_hash: str
    documents: int
    validation_documents: int
    summary: str
    warnings: list[str]
    entries: list[PreparedEntry]
    reused: bool


def prepare_data(
    recipe: Recipe,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_progress: PrepareProgress | None = None,
) -> PreparedData:
    """Read, check, encode and pack the recipe's data, or open what was prepared before.

    tokenizer: the recipe's, where it is loaded already. on_progress: called with the phases "loading",
    "tokenizing" (documents) and "waiting" (another process is at work).
    Raises DataError naming file and row where the data can't be trained on, UserError where there is no
    usable tokenizer or no room, and RecipeError where rows are longer than the model allows.
    """
    length = row_length(recipe.model)
    report = on_progress or silent
    report("loading", 0, 1)
    source = None if recipe.data.streaming else open_training(recipe)
    other = open_validation(recipe)
    tokenizer = tokenizer or load_tokenizer(recipe.model)
    report("loading", 1, 1)
    preparer = _Preparer(recipe, tokenizer, length, report)
    validation = None
    held_limit = recipe.data.validation.max_documents
    if other is not None:
        validation = preparer.rows(preparer.encode(other, limit=held_limit), "validation", limit=held_limit)
    if source is None:
        return preparer.streamed(validation)
    fraction, limit = recipe.data.validation.fraction, recipe.data.max_documents
    encoded = preparer.encode(source, limit=None if fraction else limit, fraction=fraction)
    train = preparer.rows(encoded, "training", limit=limit, fraction=fraction)
    if fraction is not None:
        validation = preparer.rows(encoded, "validation", limit=held_limit, fraction=fraction)
    return preparer.result(train, validation, train.rows, source.sha256, _summary(train, validation))


def loss_on_answers(recipe: Recipe) -> bool:
    """Whether the loss is taken on the assistant's tokens only."""
    if recipe.data.train_on == "auto":
        return recipe.method != "pretrain"
    return recipe.data.train_on == "assistant"


def data_cache(data: DataSection) -> Path:
    """Folder of downloads and prepared data."""
    return Path(data.local_cache_root).expanduser() if data.local_cache_root else cache_root()


def open_training(recipe: Recipe, *, columns: Collection[str] | None = FIELDS) -> Source:
    """The training data; `columns` as in `nexa_torch.data.sources.open_source`. Raises DataError."""
    data = recipe.data
    expected = data.expected_dataset_hash and data.expected_dataset_hash.removeprefix("sha256:")
    return open_source(
        data.remote_uri,
        cache=data_cache(data),
        split=data.split,
        revision=data.dataset_version,
        expected_hash=expected,
        columns=columns,
    )


def open_validation(recipe: Recipe, *, columns: Collection[str] | None = FIELDS) -> Source | None:
    """Held-out data that has a source of its own; `columns` as for training data. Raises DataError."""
    data, validation = recipe.data, recipe.data.validation
    if validation.remote_uri is None and validation.split is None:
        return None
    uri = validation.remote_uri or data.remote_uri
    revision = data.dataset_version if validation.remote_uri is None else None
    return open_source(uri, cache=data_cache(data), split=validation.split, revision=revision, columns=columns)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """One source's prepared folder, open. cut: it is one text cut into training and held-out documents."""

    entry: PreparedEntry
    store: TokenStore
    uri: str
    cut: bool


class _Preparer:
    """Prepares the sources of one recipe, and collects what a person should know about it."""

    def __init__(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, length: int, report: PrepareProgress
    ) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._fingerprint = tokenizer_fingerprint(tokenizer)
        self._length = length
        self._masked = loss_on_answers(recipe)
        self._report = report
        pad = tokenizer.pad_token_id
        self._pad_id = pad if pad is not None else tokenizer.eos_token_id or 0
        root = data_cache(recipe.data)
        self._cache = PreparedCache(root)
        self._memory = HashMemory(root)
        self.warnings: list[str] = []
        self.entries: list[PreparedEntry] = []
        self.reused = True

    def encode(self, source: Source, *, limit: int | None, fraction: float | None = None) -> _Encoded:
        """The encoded documents of a source, all or the first `limit`.

        fraction: of a single text, the end that is held out becomes a document of its own.
        """
        key = content_key(
            {
                "data": source.sha256,
                "kinds": ["".join(Path(name).suffixes[-2:]).lower() for name in source.names],
                "format": self._recipe.data.format,
                "masked": self._masked,
                "limit": limit,
                "fraction": fraction,
                "tokenizer": self._fingerprint,
                "code": code_version(),
            }
        )
        made: list[str] = []

        def fill(folder: Path) -> Mapping[str, Any]:
            made.append(key)
            return self._fill(folder, source, limit, fraction)

        if source.change is not None and self._cache.get(key) is None:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(source.change.at))
            self.warnings.append(
                f"{source.uri} has changed since it was prepared on {day} (SHA-256 {source.change.before[:12]}…, "
                f"now {source.sha256[:12]}…); it is prepared anew"
            )
        entry = self._cache.build(key, fill, on_wait=lambda holder: self._report("waiting", 0, None))
        if made:
            self.reused = False
        else:
            require_whole(entry, self._memory.of_file)
        self.entries.append(entry)
        store = TokenStore(entry.path, source.names)
        count, first = store.special_text()
        if count:
            self._warn(
                f"documents that hold the text of a special token, which is encoded as that token: {count} "
                f"(first: {first})"
            )
        for warning in entry.index["warnings"]:
            self._warn(warning)
        return _Encoded(entry=entry, store=store, uri=source.uri, cut=entry.index["cut"])

    def _fill(self, folder: Path, source: Source, limit: int | None, fraction: float | None) -> dict[str, Any]:
        """Encode a source into a folder, behind what an earlier try left there."""
        self._report("loading", 0, 1)
        total = source.count()
        total = min(total, limit) if total is not None and limit is not None else total
        parsed = parse_documents(source.records(), self._recipe.data.format, answers=self._masked)
        documents, cut = _cut_single_text(parsed, fraction)
        if cut:
            total = 2
        encoder = Encoder(self._tokenizer, mask=self._masked)
        writer = TokenWriter(folder, names=source.names, vocabulary=len(self._tokenizer), masked=self._masked)
        done = writer.documents
        self._report("tokenizing", done, total)
        for batch in encoder.encode(islice(documents, done, limit)):
            writer.add(batch)
            done += len(batch.places)
            self._report("tokenizing", done, max(done, total) if total is not None else None)
        source.require_same()
        counts = writer.finish()
        self._report("tokenizing", done, done)
        return {
            **counts,
            "source": source.uri,
            "data_sha256": source.sha256,
            "tokenizer": self._recipe.model.tokenizer or self._recipe.model.name,
            "masked": self._masked,
            "cut": cut,
        }

    def rows(self, encoded: _Encoded, what: str, *, limit: int | None, fraction: float | None = None) -> View:
        """Rows of the training or held-out documents of a source."""
        seed = self._recipe.training.seed
        selection: dict[str, Any] = {"limit": limit}
        if encoded.cut:
            selection["part"] = what
        elif fraction is not None:
            selection |= {"part": what, "fraction": fraction, "seed": seed}

        def choose(n: int) -> np.ndarray:
            if encoded.cut:
                return np.array([0 if what == "training" else 1])
            if fraction is None:
                return np.arange(n)
            others, chosen = hold_out(n, fraction, seed, encoded.uri)
            return (others if what == "training" else chosen)[:limit]

        options = ViewOptions(
            what=what,
            row_length=self._length,
            packing=self._recipe.data.packing,
            pad_id=self._pad_id,
            conversations=encoded.entry.index["conversations"],
            selection=selection,
            choose=choose,
        )
        return open_view(encoded.entry, encoded.store, options, on_wait=lambda holder: self._report("waiting", 0, None))

    def streamed(self, validation: View | None) -> PreparedData:
        """Training rows that are encoded in the run, of which the first window is made now."""
        data = self._recipe.data
        stream = open_stream(data.remote_uri, split=data.split, revision=data.dataset_version)
        options = StreamOptions(
            format=data.format,
            masked=self._masked,
            window=data.stream_window,
            limit=data.max_documents,
            row_length=self._length,
            packing=data.packing,
            pad_id=self._pad_id,
            seed=self._recipe.training.seed,
        )
        rows = StreamedRows(stream, self._tokenizer, options, data_cache(data), self._report)
        first = rows.begin()
        summary = f"streamed in windows; the first: {_summary(first, validation)}"
        return self.result(first, validation, rows, rows.data_hash, summary)

    def result(
        self, train: View, validation: View | None, rows: Rows | StreamedRows, data_hash: str, summary: str
    ) -> PreparedData:
        """All that was prepared; `train` stands for the training rows in figures and warnings."""
        return PreparedData(
            tokenizer=self._tokenizer,
            train=rows,
            validation=validation.rows if validation else None,
            row_length=self._length,
            dataset_hash=data_hash,
            documents=train.documents,
            validation_documents=validation.documents if validation else 0,
            summary=summary,
            warnings=[*self.warnings, *train.warnings, *(validation.warnings if validation else ())],
            entries=self.entries,
            reused=self.reused,
        )

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def hold_out(n: int, fraction: float, seed: int, uri: str) -> tuple[np.ndarray, np.ndarray]:
    """Split n documents by seeded choice, both parts in their original order and neither empty."""
    if n < 2:
        raise DataError(
            f"{uri}: one document can't be divided into training and held-out data",
            hint="add rows, or drop data.validation.fraction",
        )
    count = min(max(1, round(fraction * n)), n - 1)
    chosen = held_out(seed, n, count)
    return np.setdiff1d(np.arange(n), chosen, assume_unique=True), chosen


def _cut_single_text(documents: Iterator[Document], fraction: float | None) -> tuple[Iterable[Document], bool]:
    """The documents; a single text, such as a book in one file, is cut in two so that its end can be held out."""
    if fraction is None:
        return documents, False
    first = list(islice(documents, 2))
    if len(first) == 1 and (parts := _cut_text(first[0], fraction)):
        return parts, True
    return chain(first, documents), False


def _cut_text(document: Document, fraction: float) -> tuple[Document, Document] | None:
    """A text's beginning and its end, cut behind the last line that fits; None where that leaves one empty."""
    text = document.text or ""
    at = text.rfind("\n", 0, round(len(text) * (1 - fraction))) + 1
    beginning, end = text[:at], text[at:]
    if not beginning.strip() or not end.strip():
        return None
    return Document(document.place, text=beginning), Document(document.place, text=end)


def _summary(train: View, validation: View | None) -> str:
    rows = train.rows
    text = (
        f"{train.documents:,} documents: {rows.token_count:,} tokens, {rows.trained_token_count:,} of them trained on, "
        f"in {len(rows):,} rows of up to {rows.row_length:,} "
        f"({rows.empty_places / (len(rows) * rows.row_length):.2%} of them empty)"
    )
    if validation is None:
        return text
    held = validation.rows
    return f"{text}; {validation.documents:,} held out: {held.token_count:,} tokens in {len(held):,} rows"
