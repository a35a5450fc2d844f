"""Answers in OpenAI's JSON: whole, and as the chunks of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa.generator import ScoredToken, TextGenerator
    from nexa.serving.answering import Piece

# OpenAI's own stand-in for a probability of zero, which JSON has no logarithm of.
_LEAST = -9999.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is the same in every part of an answer: its id, when it was made (seconds of Unix time), the model."""

    id: str
    created: int
    model: str

    def document(self, kind: str) -> dict[str, Any]:
        """The fields, for an object of this kind."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatShape:
    """Choices of `/v1/chat/completions`."""

    whole, part, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a choice, which says who speaks."""
        return _choice(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def piece(self, index: int, piece: Piece, *, logprobs: bool, offset: int) -> dict[str, Any]:
        """A chunk's choice."""
        delta = {"content": piece.text} if piece.text else {}
        return _choice(index, {"delta": delta}, self._logprobs(piece.tokens, logprobs), piece.finish_reason)

    def choice(self, index: int, piece: Piece, *, logprobs: bool) -> dict[str, Any]:
        """A whole choice."""
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return _choice(index, {"message": message}, self._logprobs(piece.tokens, logprobs), piece.finish_reason)

    def _logprobs(self, tokens: Sequence[ScoredToken], wanted: bool) -> dict[str, Any] | None:
        if not wanted:
            return None
        return {"content": [self._entry(token) for token in tokens], "refusal": None}

    def _entry(self, token: ScoredToken) -> dict[str, Any]:
        top = [self._scored(token_id, logprob) for token_id, logprob in token.top]
        return {**self._scored(token.id, token.logprob), "top_logprobs": top}

    def _scored(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        data = self._generator.token_bytes(token_id)
        return {"token": data.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(data)}


class CompletionShape:
    """Choices of `/v1/completions`."""

    whole, part, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator

    def opening(self, index: int) -> dict[str, Any] | None:
        """No chunk before the text."""
        return None

    def piece(self, index: int, piece: Piece, *, logprobs: bool, offset: int) -> dict[str, Any]:
        """A chunk's choice; offset: characters before it."""
        return _choice(index, {"text": piece.text}, self._logprobs(piece.tokens, logprobs, offset), piece.finish_reason)

    def choice(self, index: int, piece: Piece, *, logprobs: bool) -> dict[str, Any]:
        """A whole choice."""
        return self.piece(index, piece, logprobs=logprobs, offset=0)

    def _logprobs(self, tokens: Sequence[ScoredToken], wanted: bool, offset: int) -> dict[str, Any] | None:
        if not wanted:
            return None
        texts, offsets = [], []
        for token in tokens:
            offsets.append(offset)
            texts.append(self._text(token.id))
            offset += len(texts[-1])
        return {
            "tokens": texts,
            "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {self._text(other): _finite(logprob) for other, logprob in token.top} if token.top else None
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def _text(self, token_id: int) -> str:
        return self._generator.token_bytes(token_id).decode(errors="backslashreplace")


Shape = ChatShape | CompletionShape


def usage(prompt_tokens: int, completion_tokens: int) -> Mapping[str, int]:
    """Tokens of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _choice(
    index: int, content: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else _LEAST
