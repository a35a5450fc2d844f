"""The first examples of preference data as they will be trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa.backend import PrepareProgress, Preview, PreviewToken
from nexa.batch import resolve_batch
from nexa.plan import resources_of
from nexa_torch.data.display import token_text
from nexa_torch.data.order import run_length
from nexa_torch.data.streaming import silent

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import PreferenceRows, Tokens


def preview_examples(
    recipe: Recipe, load: Callable[[Recipe, PrepareProgress], PreferenceRows], *, rows_per_example: int = 1
) -> Preview:
    """The first microbatch: each prompt with its answers, whose tokens carry the loss.

    rows_per_example: rows of a batch that one example makes. Raises DataError, and RecipeError where the batch sizes
    contradict one another.
    """
    batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    rows = load(recipe, silent)
    text = token_text(rows.tokenizer)
    shown = [tokens for row in rows.train[: batch.microbatch_size] for tokens in _row_tokens(row, text)]
    length = run_length(recipe.training, len(rows.train) * rows_per_example, batch.global_batch_size)
    answers = sum(len(answer) for row in rows.train for answer in row.answers)
    prompts = sum(len(row.prompt) * max(1, len(row.answers)) for row in rows.train)
    return Preview(
        rows=shown,
        documents=len(rows.train),
        tokens=prompts + answers,
        trained_tokens=answers,
        total_steps=length.total_steps,
        warnings=tuple(rows.warnings),
    )


def _row_tokens(row: Tokens, text: Callable[[int], str]) -> list[list[PreviewToken]]:
    prompt = [PreviewToken(id=token, text=text(token), trained=False) for token in row.prompt]
    answers = [[PreviewToken(id=token, text=text(token), trained=True) for token in answer] for answer in row.answers]
    return [prompt + answer for answer in answers] or [prompt]
