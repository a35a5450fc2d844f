"""Rewards at work: made from a recipe, and called so that whatever goes wrong names reward, row and answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa.errors import RewardError
from nexa.plugins import get_host

if TYPE_CHECKING:
    from nexa.recipe.sections.rollouts import RewardSection
    from nexa.reward import Completion, Reward

_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward of a recipe, ready to score; `weight` is what its scores are multiplied by."""

    name: str
    weight: float
    reward: Reward

    def score(self, completion: Completion) -> float | None:
        """The reward of an answer before its weight, None where the reward does not apply to the row.

        Raises RewardError where the reward raises, or its score is no finite number.
        """
        try:
            score = self.reward.score(completion)
        except Exception as error:
            raise self._failure(completion, f"raised {type(error).__name__}: {error}") from error
        if score is None:
            return None
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise self._failure(completion, f"gave {score!r}, which is no number")
        if not math.isfinite(score):
            raise self._failure(completion, f"gave {score}, which is no finite number")
        return float(score)

    def _failure(self, completion: Completion, what: str) -> RewardError:
        text = completion.text if len(completion.text) <= _SHOWN else f"{completion.text[: _SHOWN - 1]}…"
        return RewardError(
            f"reward {self.name!r} {what}; row {completion.place or '(unknown)'}, answer {text!r}",
            hint="a reward gives a finite number for every answer, or None for rows that it says nothing of",
        )


def load_rewards(sections: Sequence[RewardSection]) -> list[WeightedReward]:
    """The rewards that a recipe lists, in its order.

    Raises PluginError where one is unknown, can't be loaded or refuses its options.
    """
    host = get_host()
    rewards = []
    for section in sections:
        model = host.options_of("reward", section.name)
        options = model.model_validate(section.options).model_dump(mode="json") if model else {}
        rewards.append(
            WeightedReward(
                name=section.name, weight=section.weight, reward=host.create("reward", section.name, options)
            )
        )
    return rewards
