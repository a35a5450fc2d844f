"""A field's value as the text a person edits, and back."""

from __future__ import annotations

from typing import Any

from nexa.errors import RecipeError
from nexa.recipe.render import flow_text
from nexa.recipe.yaml import parse_yaml, resolve_scalar
from nexa.tui.forms.fields import Control, Field


def to_text(field: Field, value: Any) -> str:
    """`value` as it stands in the field's control: nothing for null, a LIST one member a line."""
    if value is None:
        return ""
    if field.control is Control.LIST and isinstance(value, list):
        return "\n".join(_member(member, field.items) for member in value)
    if field.control in (Control.TEXT, Control.SELECT) and isinstance(value, str):
        return value
    return flow_text(value)


def from_text(field: Field, text: str) -> Any:
    """The value that `text` in the field's control means; None for nothing.

    Text that is no value of the field's type is kept as text, so that validation says what is wrong with it.
    """
    if field.control is Control.LIST:
        lines = [line.strip() for line in text.splitlines()]
        return [_parsed(line) if field.items != "string" else line for line in lines if line] or None
    stripped = text.strip()
    if not stripped:
        return None
    if field.control is Control.TEXT:
        return stripped
    if field.control is Control.SELECT:
        return next((choice for choice in field.choices if to_text(field, choice) == stripped), stripped)
    if field.control is Control.YAML:
        return _parsed_yaml(stripped)
    return _parsed(stripped)


def _member(value: Any, items: str) -> str:
    return value if items == "string" and isinstance(value, str) else flow_text(value)


def _parsed(text: str) -> Any:
    try:
        return resolve_scalar(text)
    except ValueError:
        return text


def _parsed_yaml(text: str) -> Any:
    try:
        return parse_yaml(text).plain()
    except RecipeError:
        return text
