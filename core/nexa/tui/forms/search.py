"""Fuzzy search over recipes: every word of the query must be found in name, tags or description."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.catalog import CatalogEntry


def search_recipes(entries: Sequence[CatalogEntry], query: str) -> list[CatalogEntry]:
    """The entries that match `query`, best first; all of them in their order for an empty query.

    A word matches where its letters stand in order in the name or a tag, or as it is in the
    description, model or method.
    """
    words = query.casefold().split()
    if not words:
        return list(entries)
    scored = [(sum(scores), entry) for entry in entries if all(scores := [_score(entry, word) for word in words])]
    return [entry for _, entry in sorted(scored, key=lambda pair: -pair[0])]


def _score(entry: CatalogEntry, word: str) -> float:
    """How well one word fits an entry; 0 where it does not."""
    tags = max((match_score(word, tag) for tag in entry.tags), default=0.0)
    about = any(word in text.casefold() for text in (entry.description, entry.model, entry.method))
    return max(2.0 * match_score(word, entry.name), tags, 0.5 if about else 0.0)


@lru_cache(maxsize=1 << 14)
def match_score(word: str, text: str) -> float:
    """How well the letters of `word` stand in `text`, from 0 (not at all, in order) to 1 (equal).

    Letters in a row and letters that begin a part of the text count more.
    """
    text = text.casefold()
    if word == text:
        return 1.0
    place = text.find(word)
    if place >= 0:
        return (0.9 if _begins_part(text, place) else 0.7) * (0.8 + 0.2 * len(word) / len(text))
    place, total = -1, 0.0
    for letter in word:
        following = text.find(letter, place + 1)
        if following < 0:
            return 0.0
        total += 1.0 if following == place + 1 or _begins_part(text, following) else 0.3
        place = following
    return 0.5 * total / len(text)


def _begins_part(text: str, place: int) -> bool:
    return place == 0 or not text[place - 1].isalnum()
