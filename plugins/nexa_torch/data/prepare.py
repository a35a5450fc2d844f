"""The whole way from a recipe to token rows.

Documents longer than a row: plain text is cut into several rows, with no token and no prediction lost;
a conversation keeps its first `row_length` tokens, since the rest would lack its beginning, and a
warning counts what was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nexa.errors import DataError
from nexa_torch.data.documents import Document, parse_documents
from nexa_torch.data.encode import Encoded, Encoder
from nexa_torch.data.locate import cache_root
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

    Documents held out by fraction are chosen by the training seed before `max_documents` cuts.
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

    A single text gives its end.
    """
    if len(documents) == 1 and documents[0].text:
        start, end = _cut_end(documents[0].text, fraction)
        if start and end:
            place = documents[0].place
            return [Document(place=place, text=start)], [Document(place=place, text=end)]
    if len(documents) < 2:
        raise DataError(
            f"{uri}: one document can't be divided into training and held-out data",
            hint="add rows, or drop data.validation.fraction",
        )
    count = min(max(1, round(fraction * len(documents))), len(documents) - 1)
    chosen = held_out(seed, len(documents), count).tolist()
    others = set(range(len(documents))).difference(chosen)
    return [documents[i] for i in sorted(others)], [documents[i] for i in chosen]


def _cut_end(text: str, fraction: float) -> tuple[str, str]:
    """Cut the last `fraction` of a text off, at the line break before that point where there is one."""
    point = len(text) - max(1, round(fraction * len(text)))
    line = text.rfind("\n", 0, point) + 1
    return text[: line or point], text[line or point :]


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
        cut, cut_tokens = 0, 0
        idle: list[Document] = []
        predictions = np.concatenate(([0], np.cumsum(encoded.trained)))
        for document, start, end in zip(documents, encoded.starts.tolist(), encoded.ends.tolist(), strict=True):
            pieces = split_document(start, end - start, self._length)
            if len(pieces) > 1 and document.messages is not None:
                pieces = pieces[:1]
                cut += 1
                cut_tokens += end - start - self._length
            last = pieces[-1].start + pieces[-1].length + pieces[-1].continues if pieces else start
            if last <= start + 1 or predictions[last] == predictions[start + 1]:
                idle.append(document)
                continue
            segments += pieces
        self._warn(cut, cut_tokens, idle, len(documents), what)
        return Rows(
            tokens=encoded.tokens,
            trained=encoded.trained,
            segments=arrange(segments, self._length, packing=self._packing),
            row_length=self._length,
            pad_id=self._pad_id,
        )

    def _warn(self, cut: int, cut_tokens: int, idle: list[Document], total: int, what: str) -> None:
        advice = f"raise model.max_seq_len (now {self._length}) to keep them whole"
        if len(idle) == total:
            raise DataError(
                f"{idle[0].place}: no {what} document has a token to train on within its first {self._length} tokens",
                hint=advice,
            )
        if cut:
            self.warnings.append(
                f"{cut} of {total} {what} conversations are longer than a row: "
                f"their last {cut_tokens} tokens are cut; {advice}"
            )
        if idle:
            self.warnings.append(
                f"{len(idle)} of {total} {what} documents are left out, for want of a token to train on "
                f"within their first {self._length} tokens (first: {idle[0].place})"
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
