"""Which recipe fields a piece of code reads: the proof that a backend which keeps the recipe looks at it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from nexa.recipe.schema import Recipe
from nexa.recipe.sections.base import Section, section_of

_SCHEMA = "nexa.recipe."
_VALIDATION = "pydantic"


@contextmanager
def recorded_reads(*, ignoring: tuple[str, ...] = ()) -> Iterator[set[str]]:
    """Yield a set that fills with the dotted keys of the recipe leaves that are read meanwhile, in any thread.

    A leaf is read when its attribute is, by code outside the schema; dumping a whole section reads none.
    ignoring: names of modules whose reads don't count, such as those that only answer for settings.
    """
    reads: set[str] = set()
    plain = Section.__getattribute__
    paths = _paths()

    def reading(self: Section, name: str) -> Any:
        path = paths.get((type(self), name))
        if path is not None and path not in reads and _acts(sys._getframe(1), ignoring):
            reads.add(path)
        return plain(self, name)

    setattr(Section, "__getattribute__", reading)  # noqa: B010  mypy knows no method that comes and goes
    try:
        yield reads
    finally:
        # The class itself has none; what `plain` is, it inherits.
        del Section.__getattribute__


def _acts(frame: Any, ignoring: tuple[str, ...]) -> bool:
    """Whether the code that reads is neither the schema's own nor to be ignored."""
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_SCHEMA):
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__", "")) if frame is not None else _VALIDATION
    return not module.startswith(_VALIDATION) and module not in ignoring


@cache
def _paths() -> dict[tuple[type[Section], str], str]:
    """Dotted key by section and field; every section stands at one place of a recipe."""
    return dict(_fields(Recipe, ""))


def _fields(model: type[Section], prefix: str) -> Iterator[tuple[tuple[type[Section], str], str]]:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield (model, name), prefix + name
        else:
            yield from _fields(section, f"{prefix}{name}.")
