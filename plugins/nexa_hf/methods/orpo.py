"""Odds-ratio preference optimization with TRL's ORPOTrainer, which needs no reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa_hf.methods.base import Logits, Method, TrainingData
from nexa_hf.methods.dpo import load_pairs
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE, build_language_model
from nexa_hf.methods.shared import DROPOUT, LENGTH, NO_OFFLOAD, REFUSALS, sized

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import Tokens


def _columns(row: Tokens) -> dict[str, Any]:
    """A pair as conversations: TRL's ORPO trainer encodes them itself."""
    example = row.example
    return {
        "prompt": list(example.prompt),
        "chosen": list(example.answers[0]),
        "rejected": list(example.answers[1]),
    }


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.preference_data import training_data

    return training_data(load_pairs(recipe, on_progress), _columns)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, load_pairs)


def _count(inputs: Mapping[str, Any]) -> tuple[int, int]:
    names = ("chosen", "rejected")
    tokens = sum(int(inputs[f"{name}_attention_mask"].sum()) for name in names)
    return tokens, sum(int((inputs[f"{name}_labels"] != -100).sum()) for name in names)


ORPO = Method(
    name="orpo",
    summary="Odds-ratio preference optimization: fine-tuning and preference in one loss",
    trainer="trl.experimental.orpo:ORPOTrainer",
    arguments_class="trl.experimental.orpo:ORPOConfig",
    fields=(("trl/experimental/orpo/orpo_config.py", "ORPOConfig"), TRL_BASE, TRAINING_ARGUMENTS),
    load=_load,
    build=build_language_model,
    preview=_preview,
    arguments={"preference.beta": lambda recipe: {"beta": recipe.preference.beta}, **LENGTH, **DROPOUT},
    sized=sized,
    fixed=lambda recipe: {"prediction_loss_only": True, "remove_unused_columns": False},
    notes={
        "training.microbatch_size_per_gpu": lambda recipe: (
            "the cross-entropy is a mean over each microbatch, so that another size gives another loss"
        )
    },
    refusals={**REFUSALS, **NO_OFFLOAD},
    count=_count,
    logits=Logits(copies=4, gpu_copies=4),
)
