"""Kahneman-Tversky optimization with TRL's KTOTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem
from nexa_hf.methods.base import Method, TrainingData
from nexa_hf.methods.dpo import count_answers
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE, build_language_model
from nexa_hf.methods.reference import check_reference, reference_keywords
from nexa_hf.methods.shared import DROPOUT, LENGTH, OFFLOAD, REFUSALS, sized
from nexa_hf.methods.users import LAYOUTS

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import PreferenceRows, Tokens


def load_judged(recipe: Recipe, on_progress: PrepareProgress) -> PreferenceRows:
    """Good and bad answers as token ids; a pair becomes one of each. Raises DataError."""
    from nexa_hf.preference_data import load_preferences
    from nexa_torch.data.preferences import unpair

    rows = load_preferences(recipe, on_progress, accepted=LAYOUTS["kto"], expand=unpair)
    kinds = {row.example.good for row in rows.train}
    if len(kinds) == 1:
        rows.warnings.append(f"all answers are {'good' if True in kinds else 'bad'}; KTO learns from both kinds")
    return rows


def _columns(row: Tokens) -> dict[str, Any]:
    return {"prompt_ids": row.prompt, "completion_ids": row.answers[0], "label": row.example.good}


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.preference_data import training_data

    # TRL's trainer takes rows in the order of the data set, where good and bad ones may stand apart.
    return training_data(load_judged(recipe, on_progress), _columns, shuffle_seed=recipe.training.seed)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, load_judged)


def _check(recipe: Recipe) -> Iterator[Problem]:
    yield from check_reference(recipe)
    if recipe.training.microbatch_size_per_gpu < 2:
        yield Problem(
            path="training.microbatch_size_per_gpu",
            message="KTO estimates the divergence from the other answers of a microbatch, so it needs two rows or more",
            hint="set training.microbatch_size_per_gpu=2 or more",
        )


KTO = Method(
    name="kto",
    summary="Kahneman-Tversky optimization on answers that are good or bad",
    trainer="nexa_hf.trainers.kto:EncodedKTOTrainer",
    arguments_class="trl:KTOConfig",
    fields=(("trl/trainer/kto_config.py", "KTOConfig"), TRL_BASE, TRAINING_ARGUMENTS),
    load=_load,
    build=build_language_model,
    preview=_preview,
    arguments={
        "preference.beta": lambda recipe: {"beta": recipe.preference.beta},
        "preference.desirable_weight": lambda recipe: {"desirable_weight": recipe.preference.desirable_weight},
        "preference.undesirable_weight": lambda recipe: {"undesirable_weight": recipe.preference.undesirable_weight},
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
    notes={
        "training.microbatch_size_per_gpu": lambda recipe: (
            "the divergence is that of a microbatch, so that another size gives another loss"
        )
    },
    refusals=REFUSALS,
    keywords=reference_keywords,
    count=count_answers,
    check=_check,
)
