"""The whole way from a recipe to token rows.

A document longer than a row continues in further rows, with no prediction lost; what stands in them
can't see what stands before, so for conversations a warning counts them. Pieces without a
token to train on are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nexa.errors import DataError
from nexa.prepared import cache_root
from nexa_torch.data.documents import Document, parse_documents
from nexa_torch.data.encode import Encoded, Encoder
from nexa_torch.data.order import held_out
from nexa_torch.data.packing import arrange, split_document
from nexa_torch.data.rows import Rows, Segment
from nexa_torch.data.sources import Source, open_source
from nexa_torch.data.tokenizer import load_tokenizer, row_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import DataSection, Recipe

ProgressCallback = Callable[[str, int, int], None]
"""Called as (phase, done, total) with phase "loading" or "tokenizing"; may raise to stop."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Data ready to train on.

    train, validation: token rows; validation is None when the recipe holds nothing out.
    row_length: most tokens in a row. dataset_hash: SHA-256 of the training data, in hex.
    documents: training documents. summary: one line with the counts. warnings: what a person should
    know before training, in words.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Rows
    validation: Rows | None
    row_length: int
    dataset_hash: str
    documents: int
    summary: str
    warnings: list[str]


def prepare_data(
    recipe: Recipe,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_progress: ProgressCallback | None = None,
) -> PreparedData:
    """Read, check, encode and pack the recipe's data.

    tokenizer: the recipe's, where it is loaded already.
    Raises DataError naming file and row where the data can't be trained on, UserError where there is no
    usable tokenizer, and RecipeError where rows are longer than the model allows.
    """
    length = row_length(recipe.model)
    masked = loss_on_answers(recipe)
    _report(on_progress, "loading", 0, 1)
    source, train, validation = read_documents(recipe, answers=masked)
    _report(on_progress, "loading", 1, 1)
    tokenizer = tokenizer or load_tokenizer(recipe.model)
    encoder = Encoder(tokenizer, mask=masked)
    total = len(train) + len(validation)
    builder = _RowBuilder(tokenizer, length, packing=recipe.data.packing)

    encoded = encoder.encode(train, lambda done, _: _report(on_progress, "tokenizing", done, total))
    train_rows = builder.build(encoded, train, "training")
    validation_rows = None
    if validation:
        encoded = encoder.encode(
            validation, lambda done, _: _report(on_progress, "tokenizing", len(train) + done, total)
        )
        validation_rows = builder.build(encoded, validation, "validation")
    return PreparedData(
        tokenizer=tokenizer,
        train=train_rows,
        validation=validation_rows,
        row_length=length,
        dataset_hash=source.sha256,
        documents=len(train),
        summary=_summary(train_rows, len(train), validation_rows, len(validation)),
        warnings=[*encoder.warnings, *builder.warnings],
    )


def loss_on_answers(recipe: Recipe) -> bool:
    """Whether the loss is taken on the assistant's tokens only."""
    if recipe.data.train_on == "auto":
        return recipe.method != "pretrain"
    return recipe.data.train_on == "assistant"


def read_documents(recipe: Recipe, *, answers: bool) -> tuple[Source, list[Document], list[Document]]:
    """The training source, and the checked training and held-out documents.

    Documents held out by fraction are chosen before `max_documents` cuts.
    """
    data, validation_data = recipe.data, recipe.data.validation
    expected = data.expected_dataset_hash and data.expected_dataset_hash.removeprefix("sha256:")
    cache = _cache(data)
    source = open_source(
        data.remote_uri, cache=cache, split=data.split, revision=data.dataset_version, expected_hash=expected
    )
    documents = parse_documents(source.records(), data.format, answers=answers)
    if validation_data.fraction is not None:
        train, validation = _hold_out(list(documents), validation_data.fraction, recipe.training.seed, data.remote_uri)
        return source, train[: data.max_documents], validation[: validation_data.max_documents]
    train = list(islice(documents, data.max_documents))
    if validation_data.remote_uri is None and validation_data.split is None:
        return source, train, []
    uri = validation_data.remote_uri or data.remote_uri
    revision = data.dataset_version if validation_data.remote_uri is None else None
    other = open_source(uri, cache=cache, split=validation_data.split, revision=revision)
    documents = parse_documents(other.records(), data.format, answers=answers)
    return source, train, list(islice(documents, validation_data.max_documents))


def _cache(data: DataSection) -> Path:
    return Path(data.local_cache_root).expanduser() if data.local_cache_root else cache_root()


def _hold_out(documents: list[Document], fraction: float, seed: int, uri: str) -> tuple[list[Document], list[Document]]:
    """Split documents by seeded choice, both parts in their original order and neither empty.

    Of a single text, such as a book in one file, the end is held out.
    """
    if len(documents) == 1 and (parts := _cut_text(documents[0], fraction)):
        return [parts[0]], [parts[1]]
    if len(documents) < 2:
        raise DataError(
            f"{uri}: one document can't be divided into training and held-out data",
            hint="add rows, or drop data.validation.fraction",
        )
    count = min(max(1, round(fraction * len(documents))), len(documents) - 1)
    chosen = held_out(seed, len(documents), count).tolist()
    others = set(range(len(documents))).difference(chosen)
    return [documents[i] for i in sorted(others)], [documents[i] for i in chosen]


def _cut_text(document: Document, fraction: float) -> tuple[Document, Document] | None:
    """A text's beginning and its end, cut behind the last line that fits; None where that leaves one empty."""
    text = document.text or ""
    at = text.rfind("\n", 0, round(len(text) * (1 - fraction))) + 1
    beginning, end = text[:at], text[at:]
    if not beginning.strip() or not end.strip():
        return None
    return Document(document.place, text=beginning), Document(document.place, text=end)


class _RowBuilder:
    """Makes rows of encoded documents, and keeps the warnings that arise."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, *, packing: bool) -> None:
        pad = tokenizer.pad_token_id
        self._pad_id = pad if pad is not None else tokenizer.eos_token_id or 0
        self._length = length
        self._packing = packing
        self.warnings: list[str] = []

    def build(self, encoded: Encoded, documents: Sequence[Document], what: str) -> Rows:
        """Rows of all documents that hold something to predict. Raises DataError where none does."""
        segments: list[Segment] = []
        continued: list[Document] = []
        idle: list[Document] = []
        # Trained tokens before each place.
        before = np.concatenate(([0], np.cumsum(encoded.trained)))
        for document, start, end in zip(documents, encoded.starts.tolist(), encoded.ends.tolist(), strict=True):
            pieces = split_document(start, end - start, self._length)
            useful = [p for p in pieces if before[p.start + p.length + p.continues] > before[p.start + 1]]
            if not useful:
                idle.append(document)
            elif len(pieces) > 1:
                continued.append(document)
            segments += useful
        if not segments:
            raise DataError(f"{documents[0].place}: neither here nor in any other {what} row is a token to train on")
        self._warn(continued, idle, len(documents), what)
        return Rows(
            tokens=encoded.tokens,
            trained=encoded.trained,
            segments=arrange(segments, self._length, packing=self._packing),
            row_length=self._length,
            pad_id=self._pad_id,
        )

    def _warn(self, continued: list[Document], idle: list[Document], total: int, what: str) -> None:
        if continued and continued[0].messages is not None:
            self.warnings.append(
                f"{what} conversations longer than a row: {len(continued)} of {total} (first: {continued[0].place}); "
                f"they continue in further rows, which lack their beginning; "
                f"raise model.max_seq_len, now {self._length}, to keep them whole"
            )
        if idle:
            self.warnings.append(
                f"{what} documents left out for want of a token to train on: {len(idle)} of {total} "
                f"(first: {idle[0].place})"
            )


def _summary(train: Rows, documents: int, validation: Rows | None, held_out_documents: int) -> str:
    slots = len(train) * train.row_length
    text = (
        f"{documents:,} documents: {train.token_count:,} tokens, {train.trained_token_count:,} of them trained on, "
        f"in {len(train):,} rows of up to {train.row_length:,} ({1 - train.token_count / slots:.2%} of them empty)"
    )
    if validation is None:
        return text
    return f"{text}; {held_out_documents:,} held out: {validation.token_count:,} tokens in {len(validation):,} rows"


def _report(on_progress: ProgressCallback | None, phase: str, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(phase, done, total)
