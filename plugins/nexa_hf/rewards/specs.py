"""What the host is told of this package's rewards; imports nothing heavy."""

from __future__ import annotations

from nexa.specs import RewardSpec

_OPTIONS = "nexa_hf.rewards.options"
_REWARDS = "nexa_hf.rewards.verifiable"

REWARDS = (
    RewardSpec(
        name="exact-answer",
        summary="1 where the answer is the one in a column of the row",
        factory=f"{_REWARDS}:ExactAnswer",
        options_model=f"{_OPTIONS}:ExactAnswerOptions",
    ),
    RewardSpec(
        name="format",
        summary="1 where the whole answer matches a regular expression",
        factory=f"{_REWARDS}:Format",
        options_model=f"{_OPTIONS}:FormatOptions",
    ),
    RewardSpec(
        name="length",
        summary="1 for an answer of so many words, less for shorter and longer ones",
        factory=f"{_REWARDS}:Length",
        options_model=f"{_OPTIONS}:LengthOptions",
    ),
    RewardSpec(
        name="json",
        summary="1 where the answer is valid JSON, with the wanted keys",
        factory=f"{_REWARDS}:ValidJson",
        options_model=f"{_OPTIONS}:JsonOptions",
    ),
)
"""The rewards of this package."""
