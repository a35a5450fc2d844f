"""`nexa recipe new`: a recipe of one's own, started from an existing one, comments kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

from nexa.errors import UserError
from nexa.recipe.jsonschema import recipe_json_schema
from nexa.recipe.load import load_recipe
from nexa.recipe.locate import SUFFIXES, find_recipe, project_recipe_folder
from nexa.recipe.node import Node
from nexa.recipe.paths import DATASET_KEY, FILE_KEYS, MODEL_KEYS, STORE_KEY, absolute_dataset, absolute_model
from nexa.recipe.yaml import parse_yaml
from nexa.uris import absolute_path

SCHEMA_FILE = Path(".nexa") / "recipe.schema.json"


def create_recipe(name: str, source: str) -> Path:
    """Write a new recipe that starts as a copy of the recipe `source`; see `write_recipe`.

    Raises RecipeError when the source is no valid recipe.
    """
    original = find_recipe(source)
    load_recipe(original)
    return write_recipe(name, original, original.read_text(encoding="utf-8-sig"))


def write_recipe(name: str, original: Path, text: str) -> Path:
    """Write a recipe file with `text`, which stood in `original`, and the schema its editor line names.

    name: a name (the file goes to the project's `recipes/`) or a path. Paths in the text are rewritten
    for the new folder. Returns the new file. Raises UserError when it exists or can't be written.
    """
    is_path = os.sep in name or name.endswith(SUFFIXES)
    target = Path.cwd() / Path(name).expanduser() if is_path else project_recipe_folder() / f"{name}.yaml"
    if target.suffix not in SUFFIXES:
        target = target.with_name(f"{target.name}.yaml")
    text = _header(original) + _moved(original, text, target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {target.parent} can't be made: {error.strerror or error}") from None
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
        schema = target.parent / SCHEMA_FILE
        schema.parent.mkdir(exist_ok=True)
        schema.write_text(json.dumps(recipe_json_schema(), indent=1) + "\n", encoding="utf-8")
    except FileExistsError:
        raise UserError(f"{target} exists already", hint="choose another name, or remove it first") from None
    except OSError as error:
        raise UserError(f"{target} can't be written: {error.strerror or error}") from None
    return target


def _header(original: Path) -> str:
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE.as_posix()}\n"
        f"# Started from {original.stem}. `nexa recipe validate` checks it, `nexa recipe show --origin` explains it;\n"
        "# every key is described by `nexa recipe schema`.\n\n"
    )


def _moved(original: Path, text: str, folder: Path) -> str:
    """The text of `original` with its relative paths rewritten so that they hold from `folder`."""
    lines = text.splitlines(keepends=True)
    if lines and lines[0].startswith("# yaml-language-server:"):
        lines = lines[1:]
        offset = 1
    else:
        offset = 0
    root = parse_yaml(text, file=str(original))
    changes: list[tuple[Node, str]] = []
    for key in (*FILE_KEYS, *MODEL_KEYS, DATASET_KEY, STORE_KEY, "extends"):
        node = root.find(key.split("."))
        if node is not None and isinstance(node.value, str) and node.value:
            changes.append((node, _for_folder(key, node.value, original.parent, folder)))
    for node, value in changes:
        line, column = node.origin.line, node.origin.column
        if value == node.value or line is None or column is None:
            continue
        before, after = lines[line - 1 - offset][: column - 1], lines[line - 1 - offset][column - 1 :]
        quotes = after[:1] if after[:1] in ("'", '"') else ""
        written = f"{quotes}{node.value}{quotes}"
        if not after.startswith(written):
            raise UserError(f"{original}:{line}:{column}: this path can't be rewritten", hint="write it on one line")
        lines[line - 1 - offset] = before + json.dumps(value) + after[len(written) :]
    return "".join(lines).lstrip("\n")


def _for_folder(key: str, value: str, old: Path, new: Path) -> str:
    """A path written in folder `old`, as it must be written in `new`; anything else as it is."""
    if key == "extends":
        is_path = os.sep in value or value.endswith(SUFFIXES)
        absolute = absolute_path(value, old) if is_path else value
    elif key in MODEL_KEYS:
        absolute = absolute_model(value, old)
    elif key == DATASET_KEY:
        absolute = absolute_dataset(value, old)
    else:
        absolute = absolute_path(value, old)
    if absolute == value:
        return value
    project = old.parent
    relative = os.path.relpath(absolute, new)
    return relative if new.resolve().is_relative_to(project.resolve()) else absolute
