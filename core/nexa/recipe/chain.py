"""A recipe file and the recipes it extends, as unmerged trees."""

from __future__ import annotations

from pathlib import Path

from nexa.errors import Problem, RecipeError, UserError
from nexa.recipe.locate import find_parent
from nexa.recipe.node import Node, Origin, OriginKind
from nexa.recipe.yaml import read_yaml

MAX_EXTENDS = 16


def read_chain(path: Path) -> list[tuple[Path, Node]]:
    """The file at `path` and its ancestors, itself first.

    Raises RecipeError for what is wrong with any of the files, for a cycle, and for a chain of more
    than MAX_EXTENDS files.
    """
    chain: list[tuple[Path, Node]] = []
    current: Path | None = path
    while current is not None:
        kind = OriginKind.EXTENDED if chain else OriginKind.RECIPE
        root = read_yaml(current, kind)
        if not isinstance(root.value, dict):
            empty = root.value is None
            message = "the recipe is empty" if empty else "a recipe must be a mapping of keys, such as `method: sft`"
            raise RecipeError([problem_at(root.origin, message)])
        chain.append((current, root))
        current = _parent(root, chain)
    return chain


def problem_at(place: Origin | None, message: str, *, path: str | None = None, hint: str | None = None) -> Problem:
    """A problem at a place; what was typed on the command line is said to be from there."""
    if place is None:
        return Problem(message=message, path=path, hint=hint)
    typed = place.kind in (OriginKind.FLAG, OriginKind.OVERRIDE)
    file = "command line" if typed else place.file
    return Problem(message=message, path=path, file=file, line=place.line, column=place.column, hint=hint)


def _parent(root: Node, chain: list[tuple[Path, Node]]) -> Path | None:
    reference = root.child("extends")
    if reference is None or reference.value is None:
        return None
    if not isinstance(reference.value, str):
        raise RecipeError([problem_at(reference.origin, "must be a recipe's path or name", path="extends")])
    try:
        parent = find_parent(reference.value, chain[-1][0])
    except UserError as error:
        raise RecipeError([problem_at(reference.origin, error.message, path="extends", hint=error.hint)]) from None
    files = [path.resolve() for path, _ in chain]
    if parent.resolve() in files:
        circle = " → ".join(path.name for path, _ in chain) + f" → {parent.name}"
        raise RecipeError(
            [problem_at(reference.origin, f"recipes extend one another in a circle: {circle}", path="extends")]
        )
    if len(chain) >= MAX_EXTENDS:
        raise RecipeError([problem_at(reference.origin, f"more than {MAX_EXTENDS} recipes in a row", path="extends")])
    return parent
