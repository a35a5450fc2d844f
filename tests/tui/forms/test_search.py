"""Fuzzy search over recipes."""

from __future__ import annotations

from pathlib import Path

from nexa.recipe.catalog import CatalogEntry
from nexa.tui.forms.search import search_recipes


def _entry(name: str, description: str = "", *tags: str) -> CatalogEntry:
    return CatalogEntry(name=name, path=Path(name), source="project", description=description, tags=tags)


RECIPES = [
    _entry("quickstart", "Fine-tune a pirate captain", "sft", "lora", "cpu"),
    _entry("pretrain-shakespeare", "A small model from scratch", "pretrain", "cpu"),
    _entry("falcon3-qlora", "4-bit adapter of a 3B model", "sft", "qlora", "gpu"),
]


def _names(query: str) -> list[str]:
    return [entry.name for entry in search_recipes(RECIPES, query)]


def test_an_empty_query_keeps_the_order():
    assert _names("  ") == [entry.name for entry in RECIPES]


def test_letters_in_order_are_enough_and_the_name_counts_most():
    assert _names("qs")[0] == "quickstart"
    assert _names("shak") == ["pretrain-shakespeare"]
    assert _names("qlora")[0] == "falcon3-qlora"


def test_every_word_must_be_found():
    assert _names("sft cpu") == ["quickstart"]
    assert _names("pirate") == ["quickstart"]
    assert _names("sft moon") == []
