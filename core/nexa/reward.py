"""The contract of a reward: how good an answer is, told by a program. Standard library only.

Workers call rewards while they train, possibly in another environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer to score.

    text: the answer, without special tokens. messages: the conversation that it answers, a prompt of plain text
    as one user turn. row: every other column of the data row, such as "answer". place: "file:row" of that row.
    """

    text: str
    messages: Sequence[Mapping[str, str]]
    row: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def prompt(self) -> str:
        """What was asked: the content of the last user turn."""
        users = [message["content"] for message in self.messages if message["role"] == "user"]
        return users[-1] if users else ""


class Reward(ABC):
    """Scores answers. `nexa.testing.reward.RewardContract` tests one.

    The factory that its spec names is called with the recipe's options as keyword arguments.
    """

    @abstractmethod
    def score(self, completion: Completion) -> float | None:
        """How good an answer is, the higher the better; None where this reward says nothing of such a row.

        The same answer to the same row has the same score. What it raises ends the run with a message that names
        the reward, the row and the answer, as does a score that is no finite number.
        """
