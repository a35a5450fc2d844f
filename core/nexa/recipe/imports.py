"""Files of other trainers read as recipes, by the importer that a backend's plugin names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError
from nexa.recipe.node import Node, OriginKind

if TYPE_CHECKING:
    from nexa.recipe.load import RecipeTree
    from nexa.specs import BackendSpec


@dataclass(frozen=True)
class Imported:
    """A recipe made of another trainer's file.

    root: its keys, each with the place in the file that it came from. notes: what was left out and why, in words.
    """

    root: Node
    notes: tuple[str, ...] = ()


Importer = Callable[[Node, Path], "Imported | None"]
"""Reads a file's tree as a recipe; None where the file is no such configuration. Raises RecipeError."""


def import_file(source: str | Path, backend: BackendSpec) -> Imported | None:
    """Read a file with the importer of a backend; None where there is no such file, or it is of another kind.

    Raises RecipeError for what is wrong with it.
    """
    from nexa.plugins import load_target
    from nexa.recipe.yaml import read_yaml

    path = Path(source).expanduser()
    if backend.importer is None or not path.is_file():
        return None
    importer: Importer = load_target(backend.importer)
    return importer(read_yaml(path, OriginKind.RECIPE), path.absolute())


def import_recipe(source: str | Path, backend: str) -> Imported:
    """Read a file as `import_file` does. Raises UserError where it can't be, RecipeError for what is wrong with it."""
    from nexa.plugins import get_host

    host = get_host()
    spec = host.spec("backend", backend)
    if spec.importer is None:
        able = ", ".join(each.name for each in host.specs("backend") if getattr(each, "importer", None)) or "none"
        raise UserError(f"backend {backend!r} reads no files of its trainer", hint=f"backends that do: {able}")
    if not Path(source).expanduser().is_file():
        raise UserError(f"there is no file {source}")
    found = import_file(source, spec)
    if found is None:
        raise UserError(f"{source} is no configuration of {backend}", hint="a recipe is launched as it is: nexa launch")
    return found


def tree_of(imported: Imported, path: Path) -> RecipeTree:
    """The imported recipe under the user's settings, ready for overrides."""
    from nexa.recipe.load import RecipeTree, merged_layers

    return RecipeTree(root=merged_layers([(path, imported.root)]), path=path, files=(path,))


def imported_document(imported: Imported) -> dict[str, Any]:
    """The recipe as plain values, in the order of a recipe file."""
    document: dict[str, Any] = imported.root.plain()
    first = [key for key in ("method", "backend", "model", "data") if key in document]
    return {key: document[key] for key in (*first, *(key for key in document if key not in first))}
