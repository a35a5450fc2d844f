"""The recipes that can be named, with what a list shows of each; reads no schema, so it is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nexa.errors import NexaError, RecipeError
from nexa.recipe.chain import read_chain
from nexa.recipe.locate import find_recipe, recipe_files
from nexa.recipe.node import Node

__all__ = ["CatalogEntry", "find_recipe", "list_recipes"]


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A recipe as a list shows it.

    source: "project", "nexa" or "plugin". Fields the file inherits are filled in. problem: why the
    file can't be listed properly, in one line; None when it can.
    """

    name: str
    path: Path
    source: str
    description: str = ""
    tags: tuple[str, ...] = ()
    method: str = ""
    backend: str = ""
    model: str = ""
    problem: str | None = None


def list_recipes() -> list[CatalogEntry]:
    """Every recipe that can be found by name, in name order; a broken one is listed with its problem."""
    entries = [_entry(path, source) for path, source in recipe_files()]
    return sorted(entries, key=lambda entry: (entry.name, str(entry.path)))


def _entry(path: Path, source: str) -> CatalogEntry:
    try:
        layers = [node for _, node in read_chain(path)]
    except NexaError as error:
        first = error.problems[0] if isinstance(error, RecipeError) else error.message
        return CatalogEntry(name=path.stem, path=path, source=source, problem=str(first))
    tags = layers[0].child("tags")
    return CatalogEntry(
        name=path.stem,
        path=path,
        source=source,
        description=_text(layers, "description"),
        tags=tuple(map(str, tags.plain())) if tags is not None and isinstance(tags.value, list) else (),
        method=_text(layers, "method"),
        backend=_text(layers, "backend"),
        model=_text(layers, "model", "name"),
    )


def _text(layers: list[Node], *path: str) -> str:
    """The text at `path` in the strongest layer that has it, else an empty one."""
    found = next((node for layer in layers if (node := layer.find(path)) is not None), None)
    return found.value if found is not None and isinstance(found.value, str) else ""
