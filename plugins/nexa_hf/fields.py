"""Names and types of the arguments that transformers' and TRL's classes take, read from their sources, not imported."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any


def argument_types(classes: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Annotation of every field of dataclasses, given as (path of the source file, class), the first class first.

    Empty where one of them can't be found, since then nothing can be said of a name.
    """
    types: dict[str, str] = {}
    for path, name in reversed(classes):
        found = _fields(path, name)
        if not found:
            return {}
        types |= found
    return types


def takes(annotation: str, value: Any) -> bool:
    """Whether a value in JSON's types can be what an annotation such as "float | None" says.

    Classes that are no JSON types, such as enumerations, are made from text.
    """
    outer = annotation
    while (inner := re.sub(r"\[[^\[\]]*\]", "", outer)) != outer:
        outer = inner
    words = set(re.findall(r"\w+", outer))
    fitting = _NAMES[type(value)] | {"Any", "Optional", "Union", "Literal"}
    return bool(words & fitting) or (isinstance(value, str) and not words <= _JSON)


_NAMES: Mapping[type, frozenset[str]] = {
    type(None): frozenset({"None"}),
    bool: frozenset({"bool"}),
    int: frozenset({"int", "float"}),
    float: frozenset({"float"}),
    str: frozenset({"str"}),
    dict: frozenset({"dict"}),
    list: frozenset({"list"}),
}
_JSON = frozenset().union(*_NAMES.values())


@lru_cache(maxsize=32)
def _fields(path: str, name: str) -> dict[str, str]:
    package, _, file = path.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        source = Path(folder) / file
        if source.is_file():
            return _fields_in(source.read_text(encoding="utf-8"), name)
    return {}


def _fields_in(source: str, name: str) -> dict[str, str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id: ast.unparse(item.annotation).strip("'\"")
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return {}
