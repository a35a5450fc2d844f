"""Group relative policy optimization with TRL's GRPOTrainer: the model answers, rewards score, the better ones win."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nexa.batch import resolve_batch
from nexa.errors import Problem, RecipeError
from nexa.plan import resources_of
from nexa_hf.methods.base import Job, Method, TrainingData
from nexa_hf.methods.language import TRAINING_ARGUMENTS, TRL_BASE, build_language_model
from nexa_hf.methods.shared import NO_OFFLOAD, REFUSALS
from nexa_hf.methods.users import LAYOUTS

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress, Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import Translation
    from nexa_hf.preference_data import PreferenceRows, Tokens


def load_prompts(recipe: Recipe, on_progress: PrepareProgress) -> PreferenceRows:
    """Prompts that leave room for an answer. Raises DataError."""
    from nexa_hf.preference_data import load_preferences

    reserved = recipe.rollouts.max_completion_length
    return load_preferences(recipe, on_progress, accepted=LAYOUTS["grpo"], cuts_answers=False, reserved=reserved)


def _columns(row: Tokens) -> dict[str, Any]:
    # Columns of a data set have one type each; rows may differ, so they travel as text.
    example = row.example
    return {
        "prompt": list(example.prompt),
        "row": json.dumps(dict(example.row), ensure_ascii=False, default=str),
        "place": example.place,
    }


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.preference_data import training_data

    return training_data(load_prompts(recipe, on_progress), _columns)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, load_prompts, rows_per_example=recipe.rollouts.generations)


def _keywords(job: Job) -> Mapping[str, Any]:
    from nexa.rewards import load_rewards
    from nexa_hf.methods.reference import load_reference
    from nexa_hf.rewards.functions import RewardFunction

    rollouts = job.recipe.rollouts
    return {
        "reward_funcs": [RewardFunction(reward) for reward in load_rewards(rollouts.rewards)],
        "ref_model": load_reference(job, None) if rollouts.kl_beta else None,
    }


def _count(inputs: Any) -> tuple[int, int]:
    """Tokens of prompts and answers, and those of answers; none of prompts that are not answered yet."""
    if not isinstance(inputs, Mapping):
        return 0, 0
    answers = int(inputs["completion_mask"].sum())
    return int(inputs["prompt_mask"].sum()) + answers, answers


def _rows(recipe: Recipe) -> Mapping[str, Any]:
    rows = recipe.training.microbatch_size_per_gpu
    # An evaluation compares all answers to a prompt, so its batches hold whole groups.
    return {"per_device_train_batch_size": rows, "per_device_eval_batch_size": recipe.rollouts.generations}


def _check(recipe: Recipe) -> Iterator[Problem]:
    rollouts = recipe.rollouts
    if not rollouts.rewards:
        yield Problem(
            path="rollouts.rewards",
            message="method grpo needs at least one reward",
            hint="list them by name: nexa plugins; then: rollouts: {rewards: [{name: exact-answer}]}",
        )
    elif not any(reward.weight for reward in rollouts.rewards):
        yield Problem(path="rollouts.rewards", message="all rewards have weight 0, so every answer is as good")
    try:
        batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    except RecipeError:
        # The plan refuses it with the numbers.
        return
    if batch.global_batch_size % rollouts.generations:
        yield Problem(
            path="rollouts.generations",
            message=f"{rollouts.generations} answers to a prompt do not divide an optimizer step of "
            f"{batch.global_batch_size} answers",
            hint=f"set training.global_batch_size to a multiple of {rollouts.generations}",
        )


def _plain(argument: str, field: str) -> Translation:
    return lambda recipe: {argument: getattr(recipe.rollouts, field)}


GRPO = Method(
    name="grpo",
    summary="Group relative policy optimization: the model's own answers, scored by rewards",
    trainer="nexa_hf.trainers.grpo:ReferencedGRPOTrainer",
    arguments_class="trl:GRPOConfig",
    fields=(("trl/trainer/grpo_config.py", "GRPOConfig"), TRL_BASE, TRAINING_ARGUMENTS),
    load=_load,
    build=build_language_model,
    preview=_preview,
    honoured=("rollouts.rewards",),
    arguments={
        "training.microbatch_size_per_gpu": _rows,
        "rollouts.rewards": lambda recipe: {"reward_weights": [reward.weight for reward in recipe.rollouts.rewards]},
        "rollouts.generations": _plain("num_generations", "generations"),
        "rollouts.max_completion_length": _plain("max_completion_length", "max_completion_length"),
        "rollouts.temperature": _plain("temperature", "temperature"),
        "rollouts.top_p": _plain("top_p", "top_p"),
        "rollouts.top_k": _plain("top_k", "top_k"),
        "rollouts.kl_beta": _plain("beta", "kl_beta"),
        "rollouts.loss_type": _plain("loss_type", "loss_type"),
        "rollouts.clip_epsilon": _plain("epsilon", "clip_epsilon"),
        "rollouts.scale_rewards": _plain("scale_rewards", "scale_rewards"),
        "rollouts.mask_truncated": _plain("mask_truncated_completions", "mask_truncated"),
    },
    fixed=lambda recipe: {"prediction_loss_only": True, "remove_unused_columns": False, "disable_dropout": False},
    refusals={**REFUSALS, **NO_OFFLOAD},
    keywords=_keywords,
    count=_count,
    check=_check,
)
