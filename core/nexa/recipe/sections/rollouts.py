"""The recipe section `rollouts`: answers that the model writes in training, and what rewards them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from nexa.recipe.sections.base import NonNegativeInt, PositiveInt, Section

MAX_REWARDS = 32


class RewardSection(Section):
    """One reward of an answer."""

    name: str
    """Reward plugin; `nexa plugins` lists them."""
    weight: float = 1.0
    """The rewards of an answer are summed up, each times its weight."""
    options: dict[str, Any] = {}
    """The reward's own settings."""


class RolloutsSection(Section):
    """How the model answers in training, and how its answers are rewarded: method grpo; how it answers also distill."""

    rewards: Annotated[list[RewardSection], Field(max_length=MAX_REWARDS)] = []
    """What rewards an answer: a list of mappings of `name`, `weight` (default 1) and `options`. grpo needs one."""
    generations: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt; they are compared with one another. Divides the rows of an optimizer step."""
    max_completion_length: PositiveInt = 256
    """Longest answer, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Answers are drawn from the model's distribution at this temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Draw from the most likely tokens that make up this share of the probability; 1 draws from all."""
    top_k: NonNegativeInt = 0
    """Draw from the so many most likely tokens; 0 draws from all."""
    kl_beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence from the model before training; 0 needs no such model in memory."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """How the loss is averaged over tokens: grpo within each answer and then over answers; dapo over all tokens of
    the step; bnpo over those of a microbatch; dr_grpo over max_completion_length."""
    clip_epsilon: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """How far the probability ratio of old and new model may count, each way from 1."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the standard deviation of the prompt's rewards, of the batch's, or nothing."""
    mask_truncated: bool = False
    """Leave answers that did not end within max_completion_length out of the loss."""
