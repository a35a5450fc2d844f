"""From a recipe's JSON Schema to the fields of a form, plugin sections included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

HIDDEN = frozenset({"schema_version", "extends", "description", "tags", "$schema"})
"""Keys that describe the file, not the run."""


class Control(StrEnum):
    """How a field is edited."""

    SWITCH = "switch"
    SELECT = "select"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    LIST = "list"
    YAML = "yaml"
    SECTION = "section"


_BY_TYPE: Mapping[str, Control] = {
    "boolean": Control.SWITCH,
    "integer": Control.INTEGER,
    "number": Control.NUMBER,
    "string": Control.TEXT,
    "array": Control.LIST,
}
_SCALARS = frozenset({"boolean", "integer", "number", "string"})


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of the form.

    path: dotted key. about: what it is, its unit and default, in words. default: value where nothing
    sets it, None where the schema has none. choices: of a SELECT. items: JSON type of a LIST's members.
    A SECTION field switches a whole optional section on and off; its own fields follow it.
    """

    path: str
    control: Control
    about: str = ""
    default: Any = None
    choices: tuple[Any, ...] = ()
    items: str = "string"

    @property
    def section(self) -> str:
        """Top-level section that the field stands in; "" for a top-level key of its own."""
        head, dot, _ = self.path.partition(".")
        return head if dot or self.control is Control.SECTION else ""

    @property
    def label(self) -> str:
        """The path inside its section."""
        _, dot, rest = self.path.partition(".")
        return rest if dot else self.path


def form_fields(schema: Mapping[str, Any], *, choices: Mapping[str, Sequence[str]] | None = None) -> tuple[Field, ...]:
    """The fields of a recipe's JSON Schema (`recipe_json_schema()`), in its order, top-level keys first.

    choices: names that are known for a field whose schema takes any text, such as installed schedulers.
    """
    fields = list(_section(schema, "", schema.get("$defs", {})))
    known = {path: tuple(names) for path, names in (choices or {}).items() if names}
    fields = [_with_choices(field, known.get(field.path)) for field in fields]
    return tuple(sorted(fields, key=lambda field: field.section != ""))


def _section(section: Mapping[str, Any], prefix: str, definitions: Mapping[str, Any]) -> Iterator[Field]:
    for name, declared in section.get("properties", {}).items():
        if not prefix and name in HIDDEN:
            continue
        path = f"{prefix}{name}"
        options = _options(declared, definitions)
        nested = next((option for option in options if option.get("properties")), None)
        about = declared.get("description") or next((o["description"] for o in options if "description" in o), "")
        if nested is None:
            yield _leaf(path, " ".join(about.split()), declared.get("default"), options)
            continue
        if "default" in declared and declared["default"] is None:
            yield Field(path=path, control=Control.SECTION, about=" ".join(about.split()))
        yield from _section(nested, f"{path}.", definitions)


def _options(declared: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a property may be, references followed, null left out."""
    if "$ref" in declared:
        return _options(definitions[declared["$ref"].removeprefix("#/$defs/")], definitions)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in declared:
            return [option for part in declared[key] for option in _options(part, definitions)]
    return [] if declared.get("type") == "null" else [declared]


def _leaf(path: str, about: str, default: Any, options: Sequence[Mapping[str, Any]]) -> Field:
    if options and all("enum" in option or "const" in option for option in options):
        choices = tuple(value for option in options for value in option.get("enum", [option.get("const")]))
        return Field(path=path, control=Control.SELECT, about=about, default=default, choices=choices)
    kinds = {str(option.get("type", "")) for option in options}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    control = _BY_TYPE.get(next(iter(kinds)), Control.YAML) if len(kinds) == 1 else Control.YAML
    if control is Control.SWITCH and default is None:
        return Field(path=path, control=Control.SELECT, about=about, choices=(True, False))
    if control is Control.LIST:
        items = str(options[0].get("items", {}).get("type", ""))
        if items not in _SCALARS or len(options) > 1:
            return Field(path=path, control=Control.YAML, about=about, default=default)
        return Field(path=path, control=control, about=about, default=default, items=items)
    return Field(path=path, control=control, about=about, default=default)


def _with_choices(field: Field, names: tuple[str, ...] | None) -> Field:
    if names is None or field.control is not Control.TEXT:
        return field
    return Field(path=field.path, control=Control.SELECT, about=field.about, default=field.default, choices=names)
