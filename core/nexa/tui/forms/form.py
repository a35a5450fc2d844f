"""A recipe being changed in a form: values with their origin, edits that can be undone, what they launch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from copy import copy
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, RecipeError, UserError
from nexa.recipe.chain import problem_at, read_chain
from nexa.recipe.load import load_recipe, merged_layers, parse_override
from nexa.recipe.locate import find_recipe
from nexa.recipe.node import Node, Origin, OriginKind, from_plain, nest
from nexa.recipe.paths import absolute_paths
from nexa.recipe.render import flow_text
from nexa.recipe.yaml import parse_yaml
from nexa.tui.forms.document import edited_text, unified_diff
from nexa.tui.forms.fields import Control, Field
from nexa.tui.forms.text import from_text, to_text

if TYPE_CHECKING:
    from nexa.recipe.load import LoadedRecipe


class Mark(StrEnum):
    """Where a field's value comes from."""

    DEFAULT = "default"
    RECIPE = "recipe"
    EDITED = "edited"


class RecipeForm:
    """One recipe file with a person's edits on top, which exist nowhere else until they are launched or saved.

    Edits stand for overrides of `nexa launch`: the form launches what its equivalent command would.
    """

    def __init__(self, path: Path, fields: Sequence[Field]) -> None:
        """Read the recipe at `path`. Raises RecipeError when it or a recipe it extends can't be read."""
        self.path = path
        self.fields = {field.path: field for field in fields}
        self._chain = read_chain(path)
        self._base = merged_layers(self._chain)
        self._parents = merged_layers(self._chain[1:])
        self._original = path.read_text(encoding="utf-8-sig")
        self._text = self._original
        self._edits: dict[str, Any] = {}

    def snapshot(self) -> RecipeForm:
        """A copy that later edits don't reach, to work on in another thread."""
        twin = copy(self)
        twin.fields, twin._edits = dict(self.fields), dict(self._edits)
        return twin

    @property
    def original(self) -> str:
        """The recipe file's text as it is on disk."""
        return self._original

    @property
    def edits(self) -> Mapping[str, Any]:
        """Edited values by dotted key; None takes a field back to its default."""
        return self._edits

    def value(self, path: str) -> Any:
        """A field's value: the edited one, else the recipe's, else the default."""
        if path in self._edits:
            return self._edits[path]
        field = self.fields[path]
        section = next((s for s in self._edited_sections() if path.startswith(f"{s}.")), None)
        if section is not None and self._edits[section] is None:
            return None
        if field.control is Control.SECTION:
            touched = any(key.startswith(f"{path}.") for key in self._edits)
            return {} if touched or _plain(self._base.find(path.split("."))) is not None else None
        return self._effective(self._base, path)

    def text(self, path: str) -> str:
        """A field's value as its control shows it."""
        return to_text(self.fields[path], self.value(path))

    def mark(self, path: str) -> Mark:
        """Where a field's value comes from."""
        if path in self._edits:
            return Mark.EDITED
        node = self._base.find(path.split("."))
        return Mark.DEFAULT if node is None or node.value is None else Mark.RECIPE

    def is_visible(self, path: str) -> bool:
        """Whether a field means anything now: one of a section that is off does not."""
        parents = [name for name in self._sections() if path.startswith(f"{name}.")]
        return all(self.value(name) is not None for name in parents)

    def set(self, path: str, value: Any) -> None:
        """Change a field, None being null; the value it has without the edit is no edit."""
        if self._is_section(path):
            if value is None:
                # The edits of a section's fields alone would switch it on.
                self.undo(path)
            same = (value is None) == (_plain(self._base.find(path.split("."))) is None)
        else:
            same = _same(value, self._effective(self._base, path))
        if same:
            self._edits.pop(path, None)
        else:
            self._edits[path] = value

    def set_text(self, path: str, text: str) -> None:
        """Change a field to what was typed into its control; nothing means its default. See `from_text`."""
        self.set(path, from_text(self.fields[path], text) if text.strip() else self.fields[path].default)

    def undo(self, path: str) -> bool:
        """Take back the edit of a field, of a section with all its fields; returns whether there was one."""
        undone = [key for key in self._edits if key == path or (self._is_section(path) and key.startswith(f"{path}."))]
        for key in undone:
            del self._edits[key]
        return bool(undone)

    def overrides(self) -> list[str]:
        """The edits as `key.path=value` arguments."""
        arguments: list[str] = []
        for path, value in self._edits.items():
            if isinstance(value, dict) and self._base.find(path.split(".")) is not None and path in self.fields:
                # Mappings merge; only a null before it makes a removed key go.
                arguments.append(f"{path}=null")
            arguments.append(_override(path, value))
        return arguments

    def command(self) -> str:
        """The `nexa launch …` that resolves to the same recipe, quoted for a POSIX shell."""
        return shlex.join(["nexa", "launch", self._name(), *self.overrides()])

    def load(self) -> LoadedRecipe:
        """The recipe with the edits. Raises RecipeError with every problem, as the command would."""
        return load_recipe(self.path, overrides=self.overrides())

    def yaml(self) -> str:
        """The recipe file's text with the edits in it, comments kept; relative paths typed in become absolute."""
        nulls = {
            path
            for path, field in self.fields.items()
            if field.default is not None or self._parents.find(path.split(".")) is not None
        }
        edits = {path: self._placed(path, value) for path, value in self._edits.items()}
        return edited_text(self._text, edits, nulls=nulls)

    def diff(self) -> str:
        """What the edits change in the recipe file, as a unified diff; empty when nothing."""
        return unified_diff(self._original, self.yaml(), name=self.path.name)

    def take_yaml(self, text: str) -> None:
        """Replace all edits by what differs from the recipe in `text`, whose comments stay.

        Raises RecipeError with every problem of the text, and changes nothing then.
        """
        from nexa.recipe.validate import validate_tree

        layer = parse_yaml(text, file=str(self.path))
        if not isinstance(layer.value, dict):
            raise RecipeError([problem_at(layer.origin, "a recipe must be a mapping of keys, such as `method: sft`")])
        self._refuse_other_parent(layer)
        root = merged_layers([(self.path, layer), *self._chain[1:]])
        recipe, problems = validate_tree(root)
        if recipe is None or problems:
            raise RecipeError(problems)
        edits: dict[str, Any] = {}
        for path, field in self.fields.items():
            if field.control is Control.SECTION:
                new, old = (_plain(tree.find(path.split("."))) for tree in (root, self._base))
                if (new is None) != (old is None):
                    edits[path] = None if new is None else {}
                continue
            value = self._effective(root, path)
            off = any(edits.get(key, "") is None and path.startswith(f"{key}.") for key in self._sections())
            if not off and not _same(value, self._effective(self._base, path)):
                edits[path] = value
        self._edits = edits
        self._text = text

    def field_of(self, problem: Problem) -> str:
        """The field a problem belongs to, else the section it stands in, else ""."""
        path = problem.path or ""
        while path and path not in self.fields:
            if any(name.startswith(f"{path}.") for name in self.fields):
                return path
            path = path.rpartition(".")[0]
        return path

    def _refuse_other_parent(self, layer: Node) -> None:
        new, old = layer.child("extends"), self._chain[0][1].child("extends")
        if _plain(new) != _plain(old):
            place = new.origin if new is not None else None
            hint = "make a recipe of your own: nexa recipe new"
            raise RecipeError([problem_at(place, "can't be changed in a form", path="extends", hint=hint)])

    def _effective(self, tree: Node, path: str) -> Any:
        """A field's value in a tree of merged files, its default where they have none."""
        node = tree.find(path.split("."))
        return self.fields[path].default if node is None else node.plain()

    def _sections(self) -> list[str]:
        return [path for path, field in self.fields.items() if field.control is Control.SECTION]

    def _edited_sections(self) -> list[str]:
        return [path for path in self._sections() if path in self._edits]

    def _is_section(self, path: str) -> bool:
        return self.fields[path].control is Control.SECTION

    def _placed(self, path: str, value: Any) -> Any:
        """A value for the recipe's file: paths typed here count from the current folder, not from the file's."""
        node = nest(path, from_plain(value, Origin(OriginKind.OVERRIDE)))
        return _plain(absolute_paths(node, Path.cwd()).find(path.split(".")))

    def _name(self) -> str:
        """How the command line names the recipe: by name where that finds it, else by path."""
        try:
            if find_recipe(self.path.stem) == self.path:
                return self.path.stem
        except UserError:
            pass
        here = Path.cwd()
        return f"./{self.path.relative_to(here)}" if self.path.is_relative_to(here) else str(self.path)


def _override(path: str, value: Any) -> str:
    text = f"{path}={flow_text(value)}"
    assert _same(parse_override(text)[1].plain(), value), text
    return text


def _plain(node: Node | None) -> Any:
    return None if node is None else node.plain()


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal in value and type (1 is not true, but 1 is 1.0 in a number field)."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
