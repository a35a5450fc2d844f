"""Rewards that need nothing but the answer and its row. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from nexa.reward import Completion, Reward

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)


class ExactAnswer(Reward):
    """1 where the answer in the text is that of the row, else 0.

    Numbers are compared by value ("1,000" is 1000.0), other answers without regard to case, surrounding
    punctuation and runs of blanks. Rows whose column is missing or null are not rewarded at all.
    """

    def __init__(self, *, column: str, pattern: str | None) -> None:
        self._column = column
        self._pattern = re.compile(pattern, re.DOTALL) if pattern is not None else None

    def score(self, completion: Completion) -> float | None:
        """Compare what the text says with what the row holds."""
        right = completion.row.get(self._column)
        if right is None:
            return None
        if isinstance(right, bool) or not isinstance(right, str | int | float):
            raise TypeError(f"column {self._column!r} must hold text or a number, not {right!r}")
        wanted = _number(str(right))
        given = self._find(completion.text, numeric=wanted is not None)
        if given is None:
            return 0.0
        if wanted is not None:
            return float(_number(given) == wanted)
        return float(_plain(given) == _plain(str(right)))

    def _find(self, text: str, *, numeric: bool) -> str | None:
        if self._pattern is None and not numeric:
            return text
        matches = list((self._pattern or _NUMBER).finditer(text))
        if not matches:
            return None
        return matches[-1].group(1) if matches[-1].re.groups else matches[-1].group()


class Format(Reward):
    """1 where the whole answer, without surrounding blanks, matches a regular expression, else 0."""

    def __init__(self, *, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)

    def score(self, completion: Completion) -> float:
        """Match the answer."""
        return float(self._pattern.fullmatch(completion.text.strip()) is not None)


class Length(Reward):
    """1 for an answer of min_words to max_words words; below and above it falls, to 0 at 0 and 2 × max_words."""

    def __init__(self, *, min_words: int, max_words: int) -> None:
        self._min = min_words
        self._max = max_words

    def score(self, completion: Completion) -> float:
        """Count words, which blanks divide."""
        words = len(completion.text.split())
        if words < self._min:
            return words / self._min
        return max(0.0, min(1.0, 2.0 - words / self._max))


class ValidJson(Reward):
    """1 where the answer is JSON, alone or in one fenced code block; 0 where it is not.

    With keys, half of the reward is for being an object and half for the share of the keys that it has.
    """

    def __init__(self, *, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)

    def score(self, completion: Completion) -> float:
        """Parse the answer."""
        text = completion.text.strip()
        fenced = _FENCED.fullmatch(text)
        try:
            value = json.loads(fenced.group(1) if fenced else text)
        except (ValueError, RecursionError):
            return 0.0
        if not self._keys:
            return 1.0
        if not isinstance(value, dict):
            return 0.0
        return 0.5 + 0.5 * sum(key in value for key in self._keys) / len(self._keys)


def _number(text: str | None) -> Decimal | None:
    try:
        value = Decimal((text or "").strip().replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?,;:\"'`*")
