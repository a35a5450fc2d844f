"""The reference page of recipes, rendered from the schema; `python -m nexa.recipe.reference` remakes it.

The file is `docs/reference/recipe.md` under the current folder, or the one named as argument.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nexa.recipe.jsonschema import described_schema

PAGE = Path("docs/reference/recipe.md")
_INTRODUCTION = """# Recipe reference

A recipe is one YAML 1.2 file. Unknown keys are refused, and numbers, text and true/false are never
converted into one another. Relative paths count from the recipe's folder. Besides the sections below,
each installed plugin may have a section of its own; `nexa recipe schema` prints the JSON Schema of
everything, for editors.

Values come from, strongest first: launch flags, `key.path=value` overrides, the recipe, the recipes
it `extends`, user settings, the defaults below. `nexa recipe show RECIPE --origin` names the place of
each. Mappings merge key by key, lists are replaced, and `null` takes an inherited value back to its
default (or is the value, where null is among the types).

<!-- Made by `python -m nexa.recipe.reference`; change the schema, not this page. -->
"""


def markdown() -> str:
    """The page: every section with path, type, default and description of its fields."""
    schema = described_schema()
    sections = [_section("Top level", "", schema, schema)]
    for name, field in schema["properties"].items():
        sections += _sections(name, field, schema)
    return "\n".join([_INTRODUCTION, *sections])


def main(arguments: list[str]) -> int:
    """Write the page."""
    page = Path(arguments[0]) if arguments else PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(), encoding="utf-8")
    return 0


def _sections(path: str, field: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """The section at `path` and those inside it; nothing for a plain field."""
    definition = _definition(field, schema)
    if definition is None:
        return
    yield _section(f"`{path}`", path, definition, schema)
    for name, child in definition["properties"].items():
        yield from _sections(f"{path}.{name}", child, schema)


def _section(title: str, path: str, definition: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    lines = [f"## {title}", ""]
    if path and definition.get("description"):
        lines += [definition["description"].split("\n\n")[0], ""]
    lines += ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    required = definition.get("required", ())
    for name, field in definition["properties"].items():
        key = f"{path}.{name}" if path else name
        default = "**required**" if name in required else _default(field, schema)
        about = field.get("description") or _about_section(key, field, schema)
        cells = (f"`{key}`", _type(field, schema), default, about)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _definition(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object with declared properties that a field holds, if it does."""
    for option in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in option:
            definition: Mapping[str, Any] = schema["$defs"][option["$ref"].rsplit("/", 1)[-1]]
            return definition
    return None


def _about_section(key: str, field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    definition = _definition(field, schema) or {}
    return str(definition.get("description", "")).split("\n\n")[0] + f" See [`{key}`](#{key.replace('.', '')})."


def _default(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if _definition(field, schema) is not None and field.get("default") is not None:
        return "see there"
    return f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A field's type in words, with its limits."""
    if "anyOf" in field:
        return " or ".join(_type(option, schema) for option in field["anyOf"])
    if "$ref" in field or "allOf" in field:
        return "mapping"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type(field.get('items', {}), schema)}"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping", None: "any"}
    limits = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {field[name]:g}" for name, sign in limits.items() if name in field and field[name] < 2**60]
    return " ".join([words.get(kind, str(kind)), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
