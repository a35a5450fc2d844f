"""What a client may ask for: requests of `/v1/chat/completions` and `/v1/completions`, checked.

A parameter that this endpoint does not heed is refused by name, unless it has no effect on the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexa.serving.refusals import RequestError

MAX_STOPS = 4
MAX_ANSWERS = 16
MAX_TOP_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
_WITHOUT_EFFECT = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
_ROLES = ("system", "developer", "user", "assistant")
_NEUTRAL: tuple[Any, ...] = (None, 0, {})


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One checked request.

    messages: of a chat, None for plain text. prompts: of a completion, texts or token ids. max_tokens: None for as
    many as the model allows. top_logprobs: None where no probabilities are asked for. echo: the prompt comes first.
    """

    model: str | None
    messages: Sequence[Mapping[str, str]] | None = None
    prompts: Sequence[str | Sequence[int]] = ()
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    n: int
    stop: Sequence[str]
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    echo: bool = False

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation."""
        return self.messages is not None


def chat_request(body: Any) -> GenerationRequest:
    """Read a request of `/v1/chat/completions`. Raises RequestError."""
    fields = _Fields(body)
    messages = _messages(fields.take("messages"))
    wanted = fields.take("max_completion_tokens")
    limit = _whole(wanted, "max_completion_tokens", 1)
    older = _whole(fields.take("max_tokens"), "max_tokens", 1)
    logprobs = _boolean(fields.take("logprobs"), "logprobs")
    top = _whole(fields.take("top_logprobs"), "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    request = GenerationRequest(
        messages=messages,
        max_tokens=limit if limit is not None else older,
        top_logprobs=(top or 0) if logprobs else None,
        **_common(fields),
    )
    _text_only(fields)
    fields.refuse_rest()
    return request


def completion_request(body: Any) -> GenerationRequest:
    """Read a request of `/v1/completions`. Raises RequestError."""
    fields = _Fields(body)
    prompts = _prompts(fields.take("prompt"))
    limit = _whole(fields.take("max_tokens"), "max_tokens", 0)
    best_of = fields.take("best_of")
    request = GenerationRequest(
        prompts=prompts,
        max_tokens=DEFAULT_COMPLETION_TOKENS if limit is None else limit,
        top_logprobs=_whole(fields.take("logprobs"), "logprobs", 0, MAX_TOP_LOGPROBS),
        echo=_boolean(fields.take("echo"), "echo"),
        **_common(fields),
    )
    if best_of not in (None, request.n):
        raise RequestError("best_of other than n is not supported", param="best_of")
    if request.stream and request.echo:
        raise RequestError("echo can't be streamed", param="echo")
    fields.refuse_rest()
    return request


class _Fields:
    """The parameters of a request; what nobody takes is refused by name."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        self._fields = dict(body)

    def take(self, name: str) -> Any:
        """The value of a parameter, None where it is missing."""
        return self._fields.pop(name, None)

    def refuse_rest(self) -> None:
        """Raise RequestError for a parameter that would change the answer and is not supported."""
        for name, value in self._fields.items():
            if name not in _WITHOUT_EFFECT and value is not None:
                raise RequestError(f"parameter {name} is not supported", param=name, code="unsupported_parameter")


def _common(fields: _Fields) -> dict[str, Any]:
    stream = _boolean(fields.take("stream"), "stream")
    options = fields.take("stream_options") or {}
    if options and not stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
        if fields.take(name) not in _NEUTRAL:
            raise RequestError(f"{name} is not supported", param=name, code="unsupported_parameter")
    temperature, top_p = fields.take("temperature"), fields.take("top_p")
    return {
        "model": _text(fields.take("model"), "model"),
        "temperature": 1.0 if temperature is None else _number(temperature, "temperature", 0.0, 2.0),
        "top_p": 1.0 if top_p is None else _number(top_p, "top_p", 0.0, 1.0),
        "seed": _whole(fields.take("seed"), "seed", -(2**63), 2**63 - 1),
        "n": _whole(fields.take("n"), "n", 1, MAX_ANSWERS) or 1,
        "stop": _stops(fields.take("stop")),
        "stream": stream,
        "include_usage": _boolean(options.get("include_usage"), "stream_options.include_usage"),
    }


def _text_only(fields: _Fields) -> None:
    """Take the parameters that ask for the plain text this endpoint gives."""
    form = fields.take("response_format")
    if form not in (None, {"type": "text"}):
        raise RequestError("response_format other than text is not supported", param="response_format")
    modalities = fields.take("modalities")
    if modalities not in (None, ["text"]):
        raise RequestError("modalities other than text are not supported", param="modalities")
    for name in ("tools", "functions"):
        if fields.take(name):
            raise RequestError(f"{name} are not supported", param=name, code="unsupported_parameter")
    for name in ("tool_choice", "function_call"):
        if fields.take(name) not in (None, "none", "auto"):
            raise RequestError(f"{name} is not supported", param=name, code="unsupported_parameter")


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list of at least one message", param="messages")
    return [_message(message, f"messages.{number}") for number, message in enumerate(value)]


def _message(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RequestError(f"{place} needs a role: {', '.join(_ROLES)}", param=place)
    content = message.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if any(not isinstance(part, str) for part in parts):
            raise RequestError(f"{place}.content may hold text parts alone", param=f"{place}.content")
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise RequestError(f"{place}.content must be text", param=f"{place}.content")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(_is_id(member) for member in value):
            return [value]
        if all(isinstance(member, str) or _is_ids(member) for member in value):
            return list(value)
    raise RequestError("prompt must be text, token ids, or a list of these", param="prompt")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_id(member) for member in value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(f"stop must be text or a list of at most {MAX_STOPS} texts, none empty", param="stop")
    return tuple(stops)


def _whole(value: Any, name: str, least: int, most: int | None = None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise RequestError(f"{name} must be a whole number, {bounds}", param=name)
    return value


def _number(value: Any, name: str, least: float, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(f"{name} must be a number", param=name)
    if not least <= value <= most:
        raise RequestError(f"{name} must be from {least:g} to {most:g}", param=name)
    return float(value)


def _boolean(value: Any, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false", param=name)
    return bool(value)


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} must be text", param=name)
    return value


Reader = Callable[[Any], GenerationRequest]
"""Reads the body of a request."""
