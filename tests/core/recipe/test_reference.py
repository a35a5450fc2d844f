"""The reference page of recipes is the schema's."""

from __future__ import annotations

from pathlib import Path

from nexa.recipe.jsonschema import described_schema
from nexa.recipe.reference import markdown
from nexa.recipe.schema import Recipe

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "recipe.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "remake it: python -m nexa.recipe.reference"


def test_every_field_stands_on_the_page_with_a_description() -> None:
    page = markdown()
    for path in Recipe.leaf_paths():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{path}` |"))
        assert len(row.split(" | ")[-1]) > 10, row


def test_every_field_has_a_description() -> None:
    schema = described_schema()
    for name, definition in [*schema["$defs"].items(), ("Recipe", schema)]:
        for field, about in definition["properties"].items():
            section = any("$ref" in option for option in (about, *about.get("anyOf", ())))
            assert about.get("description") or section, f"{name}.{field}"
