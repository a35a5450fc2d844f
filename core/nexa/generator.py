"""The contract of a loaded checkpoint that continues token sequences, as `nexa serve` needs it.

A backend with the capability "serve" returns one from `open_generator`. Standard library only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    max_tokens: most tokens to make. temperature: 0 takes the likeliest. top_p: only the likeliest tokens that
    together hold this share are drawn from. seed: the same one draws the same tokens; None draws others each time.
    top_logprobs: how many of the likeliest tokens are told beside each chosen one; None tells no probabilities.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScoredToken:
    """A token and the natural logarithm of its probability under the model, before temperature and top_p.

    top: the likeliest tokens at its place, best first, as (id, log-probability).
    """

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


class TextGenerator(ABC):
    """A model and its tokenizer, used by one thread at a time."""

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """Most tokens of prompt and continuation together; None where the model does not say."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of token ids the model knows."""

    @abstractmethod
    def encode(self, text: str) -> Sequence[int]:
        """Token ids of plain text to continue, never empty."""

    @abstractmethod
    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation up to where the answer begins. Raises UserError without a chat template."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens; a character whose bytes are not all there is U+FFFD."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; of a special token its name."""

    @abstractmethod
    def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, chat: bool, should_stop: Callable[[], bool]
    ) -> Iterator[ScoredToken]:
        """Yield the tokens that continue `prompt`, until a token that ends the text, max_tokens or `should_stop`.

        chat: whether the token that closes a turn ends it too. The token that ends it is not yielded.
        """

    @abstractmethod
    def score(self, prompt: Sequence[int], top: int) -> Sequence[ScoredToken]:
        """The tokens of a prompt with their log-probabilities; the first has none."""
