"""A resolved recipe as text for people: YAML, and a table of where each value came from."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa.recipe.yaml import resolve_scalar

if TYPE_CHECKING:
    from nexa.recipe.load import LoadedRecipe


_NOT_PLAIN = frozenset("{}[]#&*!|>'\"%@`,?\\\n")


def to_yaml(document: Mapping[str, Any]) -> str:
    """Plain values as YAML 1.2 that `nexa.recipe.yaml` reads back to the same values."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(dict(document), stream)
    return stream.getvalue()


def flow_text(value: Any) -> str:
    """`value` as one line of YAML that reads back to the same value; text without quotes where that is safe."""
    if isinstance(value, str) and _is_plain(value):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow_text(key)}: {flow_text(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow_text(member) for member in value) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def _is_plain(text: str) -> bool:
    if not text or text != text.strip() or not text.isprintable() or text[0] in "-=<~" or text[0].isspace():
        return False
    if _NOT_PLAIN & set(text) or ": " in text or text.startswith(":") or text.endswith(":"):
        return False
    try:
        return resolve_scalar(text) == text
    except ValueError:
        return False


def resolved_yaml(loaded: LoadedRecipe) -> str:
    """The complete recipe, every default filled in, needing no other file."""
    return to_yaml(loaded.recipe.document())


def origin_rows(loaded: LoadedRecipe) -> list[tuple[str, Any, str]]:
    """Dotted key, value and origin of every leaf, in schema order."""
    document = loaded.recipe.document()
    return [(key, _value_at(document, key), str(origin)) for key, origin in loaded.origins.items()]


def _value_at(document: Any, key: str) -> Any:
    """The value at a dotted key; a mapping's own key may hold dots."""
    if not key:
        return document
    for name, value in document.items():
        if key == name:
            return value
        if key.startswith(f"{name}.") and isinstance(value, dict):
            return _value_at(value, key[len(name) + 1 :])
    raise AssertionError(f"{key} is not in the document")
