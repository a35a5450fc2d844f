"""Makes a plugin package that passes its own tests: a folder to change, one part after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from nexa.errors import UserError

_TEMPLATES = Path(__file__).parent / "templates"
_COMMON = "common"
_SUFFIX = ".in"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MODULES: Mapping[str, str] = {"artifact-store": "store"}
"""Module that does the work, for kinds whose name is none."""
_EXTRAS: Mapping[str, str] = {"task": "[torch]"}
"""Extra of nexa-train that packages of a kind need."""


def kinds() -> tuple[str, ...]:
    """The kinds of plugin that there are templates for."""
    return tuple(sorted(folder.name for folder in _TEMPLATES.iterdir() if folder.name != _COMMON))


def create_package(name: str, kind: str, parent: Path) -> Path:
    """Write the package `nexa-NAME` into a new folder below `parent` and return the folder.

    name: of the plugin, lower-case words joined by dashes. Raises UserError for a name that can't be one, an
    unknown kind, a folder that exists, or one that can't be written.
    """
    if kind not in kinds():
        raise UserError(f"there are no templates for a plugin of kind {kind!r}", hint=f"kinds: {', '.join(kinds())}")
    values = {**_values(_checked(name)), "kind": kind}
    values |= {"module": _MODULES.get(kind, kind), "extra": _EXTRAS.get(kind, "")}
    folder = parent / values["distribution"]
    try:
        folder.mkdir(parents=True)
        for path, text in _files(kind, values):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError:
        raise UserError(f"{folder} exists", hint="choose another name, or another folder with --dir") from None
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from None
    return folder


def _checked(name: str) -> str:
    """The name, if it can be a plugin's. Raises UserError."""
    from nexa.recipe.schema import Recipe

    plain = name.removeprefix("nexa-")
    if not _NAME.fullmatch(plain):
        hint = "lower-case letters and digits, words joined by dashes, such as my-trainer"
        raise UserError(f"{name!r} can't be the name of a plugin", hint=hint)
    if plain in Recipe.model_fields:
        raise UserError(f"{name!r} is a section of recipes; its options would stand there", hint="choose another name")
    return plain


def _values(name: str) -> dict[str, str]:
    """What a name stands for in the templates."""
    words = name.split("-")
    return {
        "name": name,
        "distribution": f"nexa-{name}",
        "package": f"nexa_{'_'.join(words)}",
        "class_name": "".join(word.capitalize() for word in words),
    }


def _files(kind: str, values: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Path in the new folder and content of every file, the common ones first."""
    for root in (_TEMPLATES / _COMMON, _TEMPLATES / kind):
        for template in sorted(root.rglob(f"*{_SUFFIX}")):
            path = template.relative_to(root)
            parts = ["src", values["package"], *path.parts[1:]] if path.parts[0] == "package" else path.parts
            text = Template(template.read_text(encoding="utf-8")).substitute(values)
            yield Path(*parts).with_suffix(""), text
