"""From a checked request to text: tokens become text as it is whole, and end at stop sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexa.errors import UserError
from nexa.generator import Sampling, ScoredToken
from nexa.serving.refusals import RequestError

if TYPE_CHECKING:
    from nexa.generator import TextGenerator
    from nexa.serving.requests import GenerationRequest

STOPPED, TOO_LONG = "stop", "length"
_PARTIAL = "\ufffd"


@dataclass
class Piece:
    """Text that is ready, the tokens it came from, and at the very end why it ended."""

    text: str
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(frozen=True)
class Job:
    """One answer to make: the prompt's token ids, and how many tokens may follow."""

    prompt: Sequence[int]
    max_tokens: int


def make_jobs(request: GenerationRequest, generator: TextGenerator) -> list[Job]:
    """The prompts of a request in tokens. Raises RequestError where one is longer than the model allows."""
    try:
        if request.messages is not None:
            encoded = [generator.encode_chat(request.messages)]
        else:
            encoded = [generator.encode(prompt) if isinstance(prompt, str) else prompt for prompt in request.prompts]
    except UserError as error:
        raise RequestError(error.message, param="messages") from error
    return [Job(prompt, _room(request, prompt, generator)) for prompt in encoded for _ in range(request.n)]


def _room(request: GenerationRequest, prompt: Sequence[int], generator: TextGenerator) -> int:
    unknown = [token for token in prompt if token >= generator.vocabulary]
    if unknown:
        raise RequestError(f"token id {unknown[0]} is beyond the vocabulary of {generator.vocabulary}", param="prompt")
    limit = generator.context_length
    if limit is None:
        return request.max_tokens if request.max_tokens is not None else 2048
    if len(prompt) + (0 if request.max_tokens == 0 else 1) > limit:
        raise RequestError(
            f"this model's maximum context length is {limit} tokens, and the prompt has {len(prompt)}",
            param="messages" if request.is_chat else "prompt",
            code="context_length_exceeded",
        )
    room = limit - len(prompt)
    return room if request.max_tokens is None else min(request.max_tokens, room)


def answer(
    request: GenerationRequest, job: Job, index: int, generator: TextGenerator, should_stop: Callable[[], bool]
) -> Iterator[Piece]:
    """Yield the answer to one job piece by piece; the last piece says why it ended.

    index: number of the answer within its request; of several with one seed each draws differently.
    """
    sampling = Sampling(
        max_tokens=job.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=None if request.seed is None else (request.seed + index) % 2**63,
        top_logprobs=request.top_logprobs,
    )
    window = _Window(generator, request.stop)
    made = 0
    if job.max_tokens:
        for token in generator.generate(job.prompt, sampling, chat=request.is_chat, should_stop=should_stop):
            made += 1
            piece = window.add(token)
            if piece is not None:
                yield piece
            if window.ended:
                return
    yield window.finish(TOO_LONG if made >= job.max_tokens else STOPPED)


class _Window:
    """Text of tokens as far as it is certain: no half characters, and nothing that may begin a stop sequence."""

    def __init__(self, generator: TextGenerator, stops: Sequence[str]) -> None:
        self._generator = generator
        self._stops = stops
        self._ids: list[int] = []
        self._shown = 0
        self._waiting: list[ScoredToken] = []
        self.ended = False

    def add(self, token: ScoredToken) -> Piece | None:
        """The text that this token makes certain, None where there is none yet."""
        self._ids.append(token.id)
        self._waiting.append(token)
        text = self._generator.decode(self._ids)
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.ended = True
            return self._piece(text[: min(places)], STOPPED)
        # The last bytes of a character are still to come.
        certain = text.rstrip(_PARTIAL) if text.endswith(_PARTIAL) else text
        certain = certain[: len(certain) - self._possible_start(certain)]
        return self._piece(certain, None) if len(certain) > self._shown else None

    def finish(self, reason: str) -> Piece:
        """What is left at the end."""
        return self._piece(self._generator.decode(self._ids), reason)

    def _piece(self, text: str, reason: str | None) -> Piece:
        piece = Piece(text[self._shown :], self._waiting, reason)
        self._shown = max(self._shown, len(text))
        self._waiting = []
        return piece

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that a stop sequence begins with."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
