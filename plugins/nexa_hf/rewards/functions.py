"""Nexa's rewards as the functions that TRL's trainers call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nexa.reward import Completion

if TYPE_CHECKING:
    from nexa.rewards import WeightedReward


class RewardFunction:
    """One reward over a batch of answers; TRL multiplies by the weight, and logs the mean under the reward's name."""

    def __init__(self, reward: WeightedReward) -> None:
        self._reward = reward
        self.__name__ = reward.name

    def __call__(
        self,
        *,
        prompts: Sequence[Sequence[dict[str, str]]],
        completions: Sequence[Sequence[dict[str, str]]],
        row: Sequence[str],
        place: Sequence[str],
        **others: Any,
    ) -> list[float | None]:
        """A score for each answer, None where the reward says nothing of its row. Raises RewardError."""
        return [
            self._reward.score(
                Completion(
                    text="".join(message["content"] for message in answer),
                    messages=prompt,
                    row=json.loads(columns),
                    place=origin,
                )
            )
            for prompt, answer, columns, origin in zip(prompts, completions, row, place, strict=True)
        ]
