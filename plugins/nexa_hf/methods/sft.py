"""Supervised fine-tuning with TRL's SFTTrainer, on token ids and loss masks that Nexa made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa_hf.methods.base import Method, TrainingData
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE, build_language_model, prepare, show_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexa.backend import Preparation, PrepareProgress, Preview, PreviewToken
    from nexa.recipe.schema import Recipe

SFT_CONFIG = ("trl/trainer/sft_config.py", "SFTConfig")


def unpacked(recipe: Recipe) -> Recipe:
    """The recipe with a row for each document: TRL packs documents by itself."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"packing": False})})


def load_documents(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    """Documents as a data set with columns input_ids and labels. Raises DataError."""
    from nexa_hf.data import document_data

    return document_data(unpacked(recipe), on_progress)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preview import preview_documents

    return preview_documents(recipe)


def _prepare(recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
    return prepare(unpacked(recipe), on_progress=on_progress)


def _show_rows(recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
    return show_rows(unpacked(recipe), start, count)


def _packing(recipe: Recipe) -> Mapping[str, Any]:
    if recipe.data.packing:
        return {"packing": True, "packing_strategy": "bfd", "eval_packing": True}
    # Documents are rows already: none is longer, and none is without a token to train on.
    return {"packing": False, "dataset_kwargs.skip_prepare_dataset": True}


SFT = Method(
    name="sft",
    summary="Supervised fine-tuning on conversations and answers",
    trainer="trl:SFTTrainer",
    arguments_class="trl:SFTConfig",
    fields=(SFT_CONFIG, TRL_BASE, TRAINING_ARGUMENTS),
    load=load_documents,
    build=build_language_model,
    preview=_preview,
    prepare=_prepare,
    show_rows=_show_rows,
    fixed=lambda recipe: {"prediction_loss_only": True, "completion_only_loss": False},
    sized=lambda data: {"max_length": data.row_length},
    arguments={
        "data.packing": _packing,
        "model.max_seq_len": lambda recipe: (
            {"max_length": recipe.model.max_seq_len} if recipe.model.max_seq_len else {}
        ),
        "training.activation_checkpointing": lambda recipe: (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs.selective": True}
            if recipe.training.activation_checkpointing == "selective"
            else {"gradient_checkpointing": recipe.training.activation_checkpointing}
        ),
        "training.activation_offload": lambda recipe: (
            {"activation_offloading": True} if recipe.training.activation_offload else {}
        ),
    },
    notes={
        "data.packing": lambda recipe: (
            "TRL packs whole documents, best fit decreasing; one longer than a row is cut before, never dropped"
            if recipe.data.packing
            else None
        ),
        "data.train_on": lambda recipe: "labels of Nexa's own masks, in place of TRL's assistant_only_loss",
    },
    perplexity=True,
    slow="TRL's trainer on a CPU is slower than backend torch, which serves this method with the same recipe",
)
