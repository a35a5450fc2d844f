"""Next-token prediction on text with transformers.Trainer, on the same rows as Nexa's own engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa_hf.methods.base import Job, Logits, Method, TrainingData
from nexa_hf.methods.language import (
    PLAIN_TRAINER_REFUSALS,
    TRAINING_ARGUMENTS,
    build_language_model,
    prepare,
    show_rows,
)

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe


def load_rows(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    """Token rows as data sets, packed where the recipe says so. Raises DataError."""
    from nexa_hf.data import row_data

    return row_data(recipe, on_progress)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preview import preview_rows

    return preview_rows(recipe)


def _keywords(job: Job) -> Mapping[str, Any]:
    from nexa_hf.data import collate_rows

    return {"data_collator": collate_rows}


PRETRAIN = Method(
    name="pretrain",
    summary="Next-token prediction on text",
    trainer="transformers:Trainer",
    arguments_class="transformers:TrainingArguments",
    fields=(TRAINING_ARGUMENTS,),
    load=load_rows,
    build=build_language_model,
    preview=_preview,
    prepare=prepare,
    show_rows=show_rows,
    # Rows are torch data sets of arrays already, without columns to choose from.
    fixed=lambda recipe: {"remove_unused_columns": False, "prediction_loss_only": True},
    refusals=PLAIN_TRAINER_REFUSALS,
    keywords=_keywords,
    perplexity=True,
    logits=Logits(copies=3, gpu_copies=3),
    slow="transformers.Trainer holds the logits of all positions; backend torch computes the loss in pieces",
)
