"""From a recipe's name to a validated `Recipe`: read, extend, override, check, all problems at once.

Layers, strongest first: flags, overrides (`key.path=value`), variables, the recipe, the recipes it
extends, user settings, defaults. Mappings merge key by key, lists are replaced, and `null` takes a value back
to its default (or is the value, where a field allows null).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, RecipeError
from nexa.recipe.chain import problem_at, read_chain
from nexa.recipe.locate import find_recipe
from nexa.recipe.node import Node, Origin, OriginKind, from_plain, merge, nest, set_path
from nexa.recipe.paths import absolute_paths
from nexa.recipe.yaml import MAX_PROBLEMS, parse_yaml

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.settings import Settings

__all__ = ["LoadedRecipe", "Origin", "OriginKind", "RecipeTree", "load_recipe", "read_tree", "resolve_tree"]

UNNAMED = "run"
"""Name of a recipe that stands in no file."""

_OVERRIDE = re.compile(r"(?P<key>[^=+]+)(?P<append>\+?)=(?P<value>.*)", re.DOTALL)
_SCHEDULE = ("optimizer", "scheduler")
_KEY = re.compile(r"[^.\s]+(\.[^.\s]+)*")


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A validated recipe and where it came from.

    path: the recipe's file. name: its file name without suffix. files: that file and those it
    extends, nearest first. origins: for every leaf of `recipe.document()`, by dotted key.
    """

    recipe: Recipe
    path: Path
    name: str
    files: Sequence[Path]
    origins: Mapping[str, Origin]


@dataclass(frozen=True, kw_only=True)
class RecipeTree:
    """The merged layers of a recipe before validation.

    root: the values, each with its origin. path, files: as in `LoadedRecipe`; without a file, path is
    a name in the current folder. problems: what could not be read of overrides and variables.
    """

    root: Node
    path: Path
    files: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()

    def typed(self, key: str, node: Node, *, append: bool = False, folder: Path | None = None) -> RecipeTree:
        """The tree with a value at a dotted key; relative paths in it count from `folder`, else the current one."""
        if append:
            node = _appended(self.root.find(key.split(".")), node)
        return replace(self, root=merge(self.root, _prepared(nest(key, node), folder or Path.cwd())))


def load_recipe(
    source: str | Path, *, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> LoadedRecipe:
    """Load the recipe called `source` (a name or a path).

    overrides: "key.path=value" with a YAML value; "key.path+=value" appends to a list. flags:
    `{dotted key: value}`; a key that ends in "+" appends. Relative paths count from the folder of
    the file they stand in, those in overrides and flags from the current folder.

    Raises UserError where there is no such recipe, RecipeError with every problem found.
    """
    return resolve_tree(apply_typed(read_tree(source), overrides, flags or {}))


def read_tree(source: str | Path | None) -> RecipeTree:
    """The layers of files and settings, merged: those of the recipe called `source`, or of settings alone.

    Raises UserError where there is no such recipe, RecipeError where a file can't be read.
    """
    if source is None:
        return RecipeTree(root=merged_layers(()), path=Path.cwd() / UNNAMED)
    path = find_recipe(source)
    chain = read_chain(path)
    return RecipeTree(root=merged_layers(chain), path=path, files=tuple(file for file, _ in chain))


def resolve_tree(tree: RecipeTree) -> LoadedRecipe:
    """Validate a tree. Raises RecipeError with every problem found."""
    from nexa.recipe.validate import validate_tree

    recipe, found = validate_tree(tree.root)
    problems = [*tree.problems, *found]
    if recipe is None or problems:
        raise all_problems(problems)
    return LoadedRecipe(
        recipe=recipe,
        path=tree.path,
        name=tree.path.stem,
        files=tree.files,
        origins=_origins(recipe, tree.root),
    )


def merged_layers(chain: Sequence[tuple[Path, Node]]) -> Node:
    """User settings and, over them, the files of a chain (nearest first) as one tree, paths absolute."""
    from nexa.settings import get_settings

    root = _settings_layer(get_settings())
    for file, layer in reversed(chain):
        root = merge(root, _prepared(layer, file.parent))
    return root


def parse_override(text: str) -> tuple[str, Node, bool]:
    """Split "key.path=value" into dotted key, value and whether it appends. Raises RecipeError."""
    match = _OVERRIDE.fullmatch(text)
    origin = Origin(OriginKind.OVERRIDE)
    if match is None or not _KEY.fullmatch(match["key"]):
        raise RecipeError(
            [problem_at(origin, f"{text!r} is not of the form key.path=value", hint="such as training.max_steps=100")]
        )
    key = match["key"]
    quote = f"put the value in quotes: '{key}=\"…\"'"
    try:
        value = parse_yaml(match["value"], kind=OriginKind.OVERRIDE)
    except RecipeError as error:
        raise RecipeError([problem_at(origin, error.problems[0].message, path=key, hint=quote)]) from None
    block = isinstance(value.value, (dict, list)) and match["value"].lstrip()[:1] not in ("{", "[")
    comment = value.value is None and match["value"].lstrip().startswith("#")
    if block or comment:
        what = "a comment" if comment else "a YAML block"
        raise RecipeError([problem_at(origin, f"{match['value']!r} would be {what}", path=key, hint=quote)])
    return key, from_plain(value.plain(), origin), bool(match["append"])


def _settings_layer(settings: Settings) -> Node:
    """What the user settings give every recipe; only settings that were really set."""
    root = Node({}, Origin(OriginKind.SETTING))
    keys: dict[str, tuple[str, Any]] = {
        "scheduler": ("scheduler", settings.scheduler),
        "store_uri": ("artifacts.store_uri", settings.store_uri),
    }
    for section, options in settings.defaults.items():
        keys[f"defaults.{section}"] = (section, options)
    for name, (key, value) in keys.items():
        source = settings.sources.get(name.partition(".")[0])
        if source is not None:
            root = merge(root, nest(key, from_plain(value, Origin(OriginKind.SETTING, source))))
    return root


def _prepared(layer: Node, folder: Path) -> Node:
    """One layer ready to be merged: paths absolute, a schedule's bare name in its mapping form."""
    layer = set_path(layer, ("extends",), None)
    schedule = layer.find(_SCHEDULE)
    if schedule is not None and isinstance(schedule.value, str):
        layer = set_path(layer, _SCHEDULE, replace(schedule, value={"name": schedule}))
    return absolute_paths(layer, folder)


def apply_typed(tree: RecipeTree, overrides: Sequence[str], flags: Mapping[str, Any]) -> RecipeTree:
    """Put overrides, then flags, over the tree; overrides that can't be read become problems."""
    problems = list(tree.problems)
    for text in overrides:
        try:
            key, node, append = parse_override(text)
        except RecipeError as error:
            problems += error.problems
            continue
        tree = tree.typed(key, node, append=append)
    for key, value in flags.items():
        node = from_plain(value, Origin(OriginKind.FLAG))
        tree = tree.typed(key.removesuffix("+"), node, append=key.endswith("+"))
    return replace(tree, problems=tuple(problems))


def _appended(existing: Node | None, node: Node) -> Node:
    """The existing list with what `node` holds after it, each value once."""
    members = list(existing.value) if existing is not None and isinstance(existing.value, list) else []
    known = [member.plain() for member in members]
    added = node.value if isinstance(node.value, list) else [node]
    members += [member for member in added if member.plain() not in known]
    return replace(node, value=members)


def all_problems(problems: Sequence[Problem]) -> RecipeError:
    """One error for everything found, in file order."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    ordered = sorted(problems, key=lambda p: (files.index(p.file), p.line or 0, p.column or 0))
    more = len(ordered) - MAX_PROBLEMS
    return RecipeError(ordered[:MAX_PROBLEMS], hint=f"and {more} more problems" if more > 0 else None)


def _origins(recipe: Recipe, root: Node) -> dict[str, Origin]:
    """The origin of every leaf of the recipe, by dotted key."""
    origins: dict[str, Origin] = {}

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, child in value.items():
                visit(child, (*path, key))
            return
        node = root.find(path)
        origins[".".join(path)] = node.origin if node is not None else Origin(OriginKind.DEFAULT)

    visit(recipe.document(), ())
    return origins
