"""The whole way from a recipe to token rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from transformers import PreTrainedTokenizerBase

    from nexa_torch.data.rows import Rows

ProgressCallback = Callable[[str, int, int], None]
"""Called as (phase, done, total) with phase "loading" or "tokenizing"; may raise to stop."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Data ready to train on.

    train, validation: token rows; validation is None when the recipe holds nothing out.
    row_length: most tokens in a row. dataset_hash: SHA-256 of the training data, in hex.
    documents: training documents. warnings: what a person should know before training, in words.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Rows
    validation: Rows | None
    row_length: int
    dataset_hash: str
    documents: int
    warnings: list[str]


def prepare_data(recipe: Recipe, *, on_progress: ProgressCallback | None = None) -> PreparedData:
    """Read, check, encode and pack the recipe's data.

    Raises DataError naming file and row where the data can't be trained on, and RecipeError where
    rows are longer than the model allows.
    """
    raise NotImplementedError
