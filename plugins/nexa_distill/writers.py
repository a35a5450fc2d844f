"""Who writes text: a model in this process, or one behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError, WorkerError

if TYPE_CHECKING:
    from nexa.recipe.sections.distill import TextSection

Messages = Sequence[Mapping[str, str]]
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers of a service after which the same request may succeed."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was written. whole: it ended by itself, and was not cut off at the longest length."""

    text: str
    whole: bool


class Writer(ABC):
    """Answers conversations. requests: how many were sent so far."""

    requests = 0

    @abstractmethod
    def answer(self, messages: Messages, *, temperature: float) -> Answer:
        """The next turn of a conversation. Raises UserError, or WorkerError where it can't be had."""


class LocalWriter(Writer):
    """A model in this process."""

    def __init__(self, session: Any, count: Callable[[str], int], max_new_tokens: int) -> None:
        """session: a chat session; count: tokens of a text."""
        self._session, self._count, self._limit = session, count, max_new_tokens

    def answer(self, messages: Messages, *, temperature: float) -> Answer:
        """See `Writer.answer`."""
        self.requests += 1
        text = "".join(self._session.reply(messages, max_new_tokens=self._limit, temperature=temperature))
        return Answer(text=text, whole=self._count(text) < self._limit)


class EndpointWriter(Writer):
    """A model behind `<endpoint>/chat/completions`.

    Errors that may pass are waited out: as long as Retry-After says, else twice as long each time, with a random part
    so that several callers do not come back at once.
    """

    def __init__(self, section: TextSection, model: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        assert section.endpoint is not None
        self._section, self._model, self._sleep = section, model, sleep
        self._url = f"{section.endpoint.rstrip('/')}/chat/completions"
        self._next = 0.0

    def answer(self, messages: Messages, *, temperature: float) -> Answer:
        """See `Writer.answer`."""
        body = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": self._section.max_new_tokens,
            "temperature": temperature,
        }
        reply = self._send(json.dumps(body).encode())
        try:
            choice = reply["choices"][0]
            return Answer(text=choice["message"]["content"] or "", whole=choice.get("finish_reason") != "length")
        except (KeyError, IndexError, TypeError):
            raise WorkerError(f"{self._url} answered with something that is no chat completion") from None

    def _send(self, body: bytes) -> Any:
        failure = ""
        for attempt in range(self._section.retries + 1):
            self._keep_rate()
            wait: float | None = None
            try:
                return self._once(body)
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code} {error.reason}: {_detail(error)}"
                if error.code not in _RETRIED:
                    raise self._refused(error.code, failure) from None
                wait = _retry_after(error.headers.get("Retry-After"))
            except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
                failure = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self._section.retries:
                backoff = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1.25)
                self._sleep(backoff if wait is None else wait)
        raise WorkerError(
            f"{self._url} did not answer after {self._section.retries + 1} tries: {failure}",
            hint="what is finished is kept: the same command goes on from there",
        )

    def _once(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._section.api_key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        self.requests += 1
        with urllib.request.urlopen(request, timeout=self._section.timeout_seconds) as response:
            return json.load(response)

    def _keep_rate(self) -> None:
        if self._section.requests_per_minute is None:
            return
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + 60.0 / self._section.requests_per_minute

    def _refused(self, code: int, failure: str) -> UserError:
        if code in (401, 403):
            hint = f"put the service's key into the environment variable {self._section.api_key_variable}"
        elif code == 404:
            hint = f"is the address right, and is {self._model!r} a model there? set distill.text.endpoint_model"
        else:
            hint = "the service takes no such request"
        return UserError(f"{self._url} refused: {failure}", hint=hint)


def _detail(error: urllib.error.HTTPError) -> str:
    """What a service says about an error, in one short line."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except OSError:
        return ""
    return " ".join(text.split())[:200]


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), 10 * _LONGEST_WAIT)
