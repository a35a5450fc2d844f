"""What training will see, for people: the first batch or any rows token by token, and the data in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa.backend import Preparation, PreparedPart, Preview, PreviewToken
from nexa.batch import resolve_batch
from nexa.errors import UserError
from nexa.plan import resources_of
from nexa_torch.data.byte_tokenizer import byte_vocabulary
from nexa_torch.data.order import rows_of_microbatch, run_length
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe
    from nexa_torch.data.rows import Batch, Rows


def preview(recipe: Recipe) -> Preview:
    """Prepare the recipe's data and show the first microbatch of the first process; nothing is trained.

    Raises what `prepare_data` raises, and RecipeError where the batch sizes contradict one another.
    """
    batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    data = prepare_data(recipe)
    length = run_length(recipe.training, len(data.train), batch.global_batch_size)
    indices = rows_of_microbatch(
        seed=recipe.training.seed,
        n=len(data.train),
        step=0,
        micro=0,
        rank=0,
        world_size=batch.world_size,
        microbatch_size=batch.microbatch_size,
        accumulation_steps=batch.accumulation_steps,
        total_rows=length.total_rows,
    )
    return Preview(
        rows=_tokens(data.train.take(indices), _token_text(data.tokenizer)),
        documents=data.documents,
        tokens=data.train.token_count,
        trained_tokens=data.train.trained_token_count,
        total_steps=length.total_steps,
        warnings=tuple(data.warnings),
    )


def show_rows(recipe: Recipe, start: int, count: int) -> list[list[PreviewToken]]:
    """Training rows `start` ≤ i < `start` + `count` of a recipe as tokens; see `nexa.backend.Backend.show_rows`."""
    data = prepare_data(recipe)
    if not 0 <= start < len(data.train):
        raise UserError(f"there is no row {start}: the training data has rows 0 to {len(data.train) - 1}")
    indices = range(start, min(start + count, len(data.train)))
    return _tokens(data.train.take(indices), _token_text(data.tokenizer))


def describe(data: PreparedData) -> Preparation:
    """Prepared data in numbers, as `nexa.backend.Backend.prepare` returns it."""
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


def _tokens(batch: Batch, text_of: Callable[[int], str]) -> list[list[PreviewToken]]:
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


def _token_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
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
