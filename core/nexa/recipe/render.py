"""A resolved recipe as text for people: YAML, and a table of where each value came from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa.recipe.load import LoadedRecipe


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
