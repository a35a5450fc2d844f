"""Direct preference optimization with TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nexa_hf.methods.base import TRL_TILES, Method, TrainingData
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE, build_language_model
from nexa_hf.methods.reference import check_reference, reference_keywords
from nexa_hf.methods.shared import DROPOUT, LENGTH, OFFLOAD, REFUSALS, sized
from nexa_hf.methods.users import LAYOUTS

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import PreferenceRows, Tokens


def load_pairs(recipe: Recipe, on_progress: PrepareProgress) -> PreferenceRows:
    """Pairs of answers as token ids. Raises DataError."""
    from nexa_hf.preference_data import load_preferences

    return load_preferences(recipe, on_progress, accepted=LAYOUTS["dpo"])


def pair_columns(row: Tokens) -> dict[str, Any]:
    """A pair in TRL's columns."""
    return {"prompt_ids": row.prompt, "chosen_ids": row.answers[0], "rejected_ids": row.answers[1]}


def count_answers(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of a microbatch without padding, and those of answers."""
    return int(inputs["attention_mask"].sum()), int(inputs["completion_mask"].sum())


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.preference_data import training_data

    return training_data(load_pairs(recipe, on_progress), pair_columns)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, load_pairs)


DPO = Method(
    name="dpo",
    summary="Direct preference optimization on pairs of a better and a worse answer",
    trainer="nexa_hf.trainers.dpo:EncodedDPOTrainer",
    arguments_class="trl:DPOConfig",
    fields=(("trl/trainer/dpo_config.py", "DPOConfig"), TRL_BASE, TRAINING_ARGUMENTS),
    load=_load,
    build=build_language_model,
    preview=_preview,
    arguments={
        "preference.beta": lambda recipe: {"beta": recipe.preference.beta},
        "preference.loss_type": lambda recipe: {"loss_type": [recipe.preference.loss_type]},
        "preference.label_smoothing": lambda recipe: {"label_smoothing": recipe.preference.label_smoothing},
        "preference.precompute_reference": lambda recipe: {
            "precompute_ref_log_probs": recipe.preference.precompute_reference
        },
        **LENGTH,
        **DROPOUT,
        **OFFLOAD,
    },
    sized=sized,
    fixed=lambda recipe: {"prediction_loss_only": True},
    honoured=("preference.reference_model",),
    refusals=REFUSALS,
    keywords=reference_keywords,
    count=count_answers,
    check=check_reference,
    # Statistics of all logits beside the loss.
    logits=replace(TRL_TILES, copies=8.5),
)
