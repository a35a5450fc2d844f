"""The options of this package's rewards, as recipes give them."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_Count = Annotated[int, Field(ge=0)]


def _compiles(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ExactAnswerOptions(_Options):
    """Options of the reward `exact-answer`."""

    column: str = "answer"
    """Column of the data that holds the right answer: text or a number."""
    pattern: str | None = None
    r"""Regular expression that finds the answer in the text: its last match, and of that its first group where it
    has one. Default: the last number, or the whole text where the right answer is no number."""

    _valid = field_validator("pattern")(_compiles)


class FormatOptions(_Options):
    """Options of the reward `format`."""

    pattern: str
    """Regular expression that the whole answer must match; "." matches line ends too."""

    _valid = field_validator("pattern")(_compiles)


class LengthOptions(_Options):
    """Options of the reward `length`."""

    min_words: _Count = 1
    """Fewest words of an answer with full reward."""
    max_words: Annotated[int, Field(gt=0)] = 100
    """Most words of an answer with full reward."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is larger than max_words {self.max_words}")
        return self


class JsonOptions(_Options):
    """Options of the reward `json`."""

    keys: list[str] = []
    """Keys that the answer's object should have; each that is missing costs its share of half the reward."""
