"""Reward models with TRL's RewardTrainer (Bradley-Terry loss), saved as transformers' sequence classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_hf.methods.base import Logits, Method, TrainingData
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE
from nexa_hf.methods.shared import DROPOUT, LENGTH, OFFLOAD, REFUSALS, sized
from nexa_hf.methods.users import LAYOUTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import PreferenceRows, Tokens
    from nexa_torch.models import LanguageModel


def load_whole_pairs(recipe: Recipe, on_progress: PrepareProgress) -> PreferenceRows:
    """Pairs of conversations as token ids, none of them cut: a score is that of a whole. Raises DataError."""
    from nexa_hf.preference_data import load_preferences

    return load_preferences(recipe, on_progress, accepted=LAYOUTS["reward"], cuts_answers=False)


def _columns(row: Tokens) -> dict[str, Any]:
    chosen, rejected = (row.prompt + answer for answer in row.answers)
    return {"chosen_ids": chosen, "rejected_ids": rejected}


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.preference_data import training_data

    return training_data(load_whole_pairs(recipe, on_progress), _columns)


def _build(recipe: Recipe, data: TrainingData, checkpoint: Path | None) -> LanguageModel:
    from nexa_hf.reward_model import build_reward_model

    return build_reward_model(recipe, data, checkpoint)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, load_whole_pairs)


def _save(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: Mapping[str, Any]) -> None:
    from nexa_torch.models import save_adapter

    if model.adapter is None:
        model.network.save_pretrained(folder, state_dict=dict(weights))
    else:
        save_adapter(model, folder, weights)
    tokenizer.save_pretrained(folder)


def _count(inputs: Mapping[str, Any]) -> tuple[int, int]:
    tokens = int(inputs["attention_mask"].sum())
    return tokens, tokens


REWARD = Method(
    name="reward",
    summary="A model that scores answers, from pairs of a better and a worse one",
    trainer="trl:RewardTrainer",
    arguments_class="trl:RewardConfig",
    fields=(("trl/trainer/reward_config.py", "RewardConfig"), TRL_BASE, TRAINING_ARGUMENTS),
    load=_load,
    build=_build,
    preview=_preview,
    arguments={
        "preference.center_rewards": lambda recipe: {"center_rewards_coefficient": recipe.preference.center_rewards},
        **LENGTH,
        **DROPOUT,
        **OFFLOAD,
    },
    sized=sized,
    fixed=lambda recipe: {"prediction_loss_only": True},
    refusals={
        **REFUSALS,
        "samples.prompts": lambda recipe: "a reward model writes no text",
        "samples.max_new_tokens": lambda recipe: "a reward model writes no text",
    },
    count=_count,
    samples=False,
    save=_save,
    logits=Logits(copies=0, gpu_copies=0),
)
