"""Prepared data for people: rows token by token, and the whole in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa.backend import Preparation, PreparedPart, PreviewToken
from nexa.errors import UserError
from nexa_torch.data.byte_tokenizer import byte_vocabulary
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import IGNORED
from nexa_torch.data.streaming import StreamedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe
    from nexa_torch.data.rows import Batch, Rows


def show_rows(recipe: Recipe, start: int, count: int) -> list[list[PreviewToken]]:
    """Training rows `start` ≤ i < `start` + `count` of a recipe as tokens; see `nexa.backend.Backend.show_rows`."""
    data = prepare_data(recipe)
    if not 0 <= start < len(data.train):
        raise UserError(f"there is no row {start}: the training data has rows 0 to {len(data.train) - 1}")
    indices = range(start, min(start + count, len(data.train)))
    return row_tokens(data.train.take(indices), token_text(data.tokenizer))


def describe(data: PreparedData) -> Preparation:
    """Prepared data in numbers, as `nexa.backend.Backend.prepare` returns it. Raises UserError for a stream."""
    if isinstance(data.train, StreamedRows):
        raise UserError(
            "data.streaming is on, so the data is encoded in the run and there is nothing to prepare",
            hint="set data.streaming=false, or launch the recipe",
        )
    return Preparation(
        folders=[entry.path for entry in data.entries],
        bytes=sum(entry.bytes for entry in data.entries),
        reused=data.reused,
        row_length=data.row_length,
        train=_part(data.train, data.documents),
        validation=_part(data.validation, data.validation_documents) if data.validation is not None else None,
        warnings=tuple(data.warnings),
    )


def _part(rows: Rows, documents: int) -> PreparedPart:
    return PreparedPart(
        documents=documents,
        rows=len(rows),
        tokens=rows.token_count,
        trained_tokens=rows.trained_token_count,
        empty_places=rows.empty_places,
    )


def row_tokens(batch: Batch, text_of: Callable[[int], str]) -> list[list[PreviewToken]]:
    """Rows token by token, padding left out."""
    rows = []
    for ids, labels, document in zip(batch.input_ids, batch.labels, batch.document, strict=True):
        # A token is trained where the position before it has it as its label.
        trained = [False, *(labels[:-1] != IGNORED).tolist()]
        rows.append(
            [
                PreviewToken(id=int(token), text=text_of(int(token)), trained=is_trained, document=int(number))
                for token, is_trained, number in zip(ids, trained, document, strict=True)
                if number >= 0
            ]
        )
    return rows


def token_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Function from a token id to its text as a person reads it.

    A piece of a character, which has no text of its own, is written as its bytes: \\xe6\\x97.
    """
    if type(tokenizer.backend_tokenizer.decoder).__name__ != "ByteLevel":
        return lambda token: str(tokenizer.convert_ids_to_tokens(token)).replace("▁", " ")
    to_byte = byte_vocabulary()
    added = tokenizer.added_tokens_decoder

    def text(token: int) -> str:
        if token in added:
            return added[token].content
        data = bytes(to_byte[character] for character in tokenizer.convert_ids_to_tokens(token))
        return data.decode("utf-8", errors="backslashreplace")

    return text
