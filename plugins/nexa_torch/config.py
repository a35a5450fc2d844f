"""`Config`: a recipe as nested attributes, from YAML, variables and arguments. No torch.

    config = Config.from_yaml("my.yaml")
    config.training.epochs = 20
    config.optimizer.lr = 1e-4
    config.save_to_yaml("mine.yaml")  # a recipe: nexa launch mine.yaml

It is a view of the one recipe schema: every attribute is a recipe key, or another name for one
(`nexa.recipe.views.CONFIG_NAMES`); types, defaults and rules are the recipe's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nexa.errors import NexaError, UserError
from nexa.recipe.arguments import parse_command_line, read_command
from nexa.recipe.load import LoadedRecipe, RecipeTree, read_tree, resolve_tree
from nexa.recipe.node import Origin, OriginKind
from nexa.recipe.render import to_yaml
from nexa.recipe.views import (
    checked_node,
    document_of,
    find_name,
    is_section,
    put,
    section_names,
    value_at,
)

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

_PYTHON = Origin(OriginKind.PYTHON)


class ConfigSection:
    """One section of a config: attributes are read and set; an unknown one raises AttributeError."""

    def __init__(self, config: Config, name: str) -> None:
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "_name", name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._config.get(f"{self._name}.{name}")
        except UserError as error:
            raise AttributeError(str(error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            find_name(f"{self._name}.{name}")
        except UserError as error:
            raise AttributeError(str(error)) from None
        self._config.set(f"{self._name}.{name}", value)

    def __dir__(self) -> list[str]:
        return list(section_names(self._name))

    def __bool__(self) -> bool:
        """Whether the section is there; False for one that is switched off, such as `adapter`."""
        return self._config.value(self._name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigSection) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self._name}: {self.to_dict()}"

    def to_dict(self) -> dict[str, Any]:
        """Every value of the section by name, other names for fields included; None where it is unset."""
        values = {name: getattr(self, name) for name in section_names(self._name)}
        return {name: value.to_dict() if isinstance(value, ConfigSection) else value for name, value in values.items()}


class Config:
    """A training configuration: the recipe as nested attributes.

    values: dotted names and their values, set over the defaults. A config may be a part of a recipe;
    `recipe` is there once it is whole. Raises UserError for an unknown name, naming the nearest, and
    RecipeError for a value that its field does not take.
    """

    _tree: RecipeTree

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_tree", read_tree(None))
        for name, value in (values or {}).items():
            self.set(name, value)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a recipe, or a part of one, from a YAML file. Raises UserError when it can't be read."""
        return cls._of(read_tree(Path(path)))

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """The config of a recipe made elsewhere."""
        config = cls()
        for key, value in recipe.document().items():
            if value is not None:
                config.set_key(key, value)
        return config

    @classmethod
    def from_args_and_env(cls, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> Self:
        """Defaults, under a YAML file, under NEXA_TRAIN_* variables, under arguments.

        argv: without the program's name; None takes this process's own, prints what is wrong with them
        and leaves with exit code 2, and prints help for --help. env: None takes this process's. The file
        is named by `--config FILE` or NEXA_TRAIN_CONFIG. Raises UserError where argv is given.
        """
        import click

        try:
            arguments = parse_command_line(sys.argv[1:] if argv is None else argv)
            return cls._of(read_command(arguments, os.environ if env is None else env))
        except click.exceptions.Exit as end:
            raise SystemExit(end.exit_code) from None
        except NexaError as error:
            if argv is not None:
                raise
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    @classmethod
    def _of(cls, tree: RecipeTree) -> Self:
        config = cls()
        object.__setattr__(config, "_tree", tree)
        return config

    def copy(self) -> Self:
        """A config of its own with the same values."""
        return self._of(self._tree)

    @property
    def tree(self) -> RecipeTree:
        """The values as layers with their origins, as `nexa.foreground.fit_to_ranks` takes them."""
        return self._tree

    @property
    def recipe(self) -> Recipe:
        """The complete, validated recipe. Raises RecipeError with everything that is wrong or missing."""
        return self.loaded.recipe

    @property
    def loaded(self) -> LoadedRecipe:
        """The recipe with the origin of every value, as plans are made from."""
        return resolve_tree(self._tree)

    def get(self, name: str) -> Any:
        """The value of a dotted name, its default where it is not set; a `ConfigSection` for a section.

        Raises UserError for an unknown name, naming the nearest.
        """
        return ConfigSection(self, name) if is_section(name) else value_at(self._tree.root, find_name(name).path)

    def is_set(self, name: str) -> bool:
        """Whether a name was given a value, by whichever layer, and so is not at its default by itself."""
        return self._tree.root.find(find_name(name).path.split(".")) is not None

    def value(self, name: str) -> Any:
        """As `get`, sections as plain mappings; None for one that is switched off."""
        found = document_of(self._tree.root)
        for part in name.split("."):
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return found

    def set(self, name: str, value: Any) -> None:
        """Set a dotted name; what would contradict it (max_steps and epochs) is taken back.

        Raises UserError for an unknown name, RecipeError for a value that its field does not take.
        """
        row = find_name(name)
        object.__setattr__(self, "_tree", put(self._tree, row, checked_node(row.path, value, _PYTHON)))

    def set_key(self, key: str, value: Any) -> None:
        """Set a recipe key, and nothing else. Raises as `set` does."""
        path = find_name(key).path
        object.__setattr__(self, "_tree", self._tree.typed(path, checked_node(path, value, _PYTHON)))

    def to_dict(self) -> dict[str, Any]:
        """The recipe document with every default filled in."""
        return document_of(self._tree.root)

    def save_to_yaml(self, path: str | Path) -> None:
        """Write the config as a recipe with every default filled in; relative paths are absolute in it.

        Raises UserError when the file can't be written.
        """
        try:
            Path(path).write_text(to_yaml(self.to_dict()), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror or error}") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.get(name)
        except UserError as error:
            raise AttributeError(str(error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            find_name(name)
        except UserError as error:
            raise AttributeError(str(error)) from None
        self.set(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *section_names("")]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config({self._tree.root.plain()})"
