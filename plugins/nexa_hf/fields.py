"""Names of the arguments that transformers' and TRL's classes take, read from their sources: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def argument_names(classes: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Fields of dataclasses given as (path of the source file, class), such as a class and its bases.

    Empty where one of them can't be found, since then nothing can be said of a name.
    """
    names: set[str] = set()
    for path, name in classes:
        found = _fields(path, name)
        if not found:
            return frozenset()
        names |= found
    return frozenset(names)


@lru_cache(maxsize=32)
def _fields(path: str, name: str) -> frozenset[str]:
    package, _, file = path.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        source = Path(folder) / file
        if source.is_file():
            return _fields_in(source.read_text(encoding="utf-8"), name)
    return frozenset()


def _fields_in(source: str, name: str) -> frozenset[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return frozenset(
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
    return frozenset()
