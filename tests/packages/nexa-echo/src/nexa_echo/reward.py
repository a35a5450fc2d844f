"""A reward: how much of the question the answer repeats."""

from __future__ import annotations

from nexa.reward import Completion, Reward


class EchoReward(Reward):
    """The share of the prompt's words that the answer holds, less a `penalty` for each word more than the prompt has."""

    def __init__(self, *, penalty: float) -> None:
        self._penalty = penalty

    def score(self, completion: Completion) -> float | None:
        """Compare words; nothing is said of a prompt without any."""
        asked, answered = completion.prompt.split(), completion.text.split()
        if not asked:
            return None
        share = len(set(asked) & set(answered)) / len(set(asked))
        return share - self._penalty * max(0, len(answered) - len(asked))
