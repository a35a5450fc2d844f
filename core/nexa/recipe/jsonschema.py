"""The JSON Schema of recipe files, for editors: the recipe's own keys and every plugin's section."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_json_schema() -> dict[str, Any]:
    """The schema of a recipe file with the plugins now installed.

    It differs from the model of a resolved recipe as files do: an inherited key may be left out, a
    schedule may be a name, and null takes a value back. A plugin that can't be loaded has a section
    that takes any keys.
    """
    from nexa.errors import PluginError
    from nexa.plugins import get_host

    schema = described_schema()
    definitions = schema.setdefault("$defs", {})
    host = get_host()
    for section in host.option_sections():
        if section in schema["properties"]:
            continue
        try:
            model = host.options_model(section)
        except PluginError as error:
            schema["properties"][section] = {"type": "object", "description": error.message}
            continue
        if model is not None:
            options = options_schema(model)
            for name, definition in options.pop("$defs", {}).items():
                definitions[f"{section}.{name}"] = definition
            schema["properties"][section] = _renamed(options, section)
    _allow_name(definitions["OptimizerSection"]["properties"], "scheduler", "LearningRateSchedule")
    _allow_name(schema["properties"], "distributed", "DistributedSection")
    _allow_name(schema["properties"], "environment", "EnvironmentSection")
    for section_schema in (*definitions.values(), schema):
        _allow_inheritance(section_schema)
    schema["anyOf"] = [{"required": ["extends"]}, {"required": ["method", "model", "data"]}]
    return {"$schema": DRAFT, **schema, "title": "Nexa recipe"}


def _allow_name(properties: dict[str, Any], key: str, section: str) -> None:
    """Let a section be given by its name alone."""
    properties[key] = {
        "anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{section}"}],
        "description": properties[key].get("description", ""),
    }


def described_schema() -> dict[str, Any]:
    """The JSON Schema of `Recipe`, each field with its description."""
    from nexa.recipe.schema import Recipe

    schema = Recipe.model_json_schema()
    _describe(schema, field_descriptions(), "Recipe")
    return schema


def _describe(schema: dict[str, Any], descriptions: Mapping[str, Mapping[str, str]], name: str) -> None:
    """Add the text under each field to the schema of the class `name` and to its definitions."""
    for owner, definition in [*schema.get("$defs", {}).items(), (name, schema)]:
        about = descriptions.get(owner, {})
        for field, property_schema in definition.get("properties", {}).items():
            if field in about:
                property_schema["description"] = about[field]


def options_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a plugin's options, each field with its description or the text under it."""
    schema = model.model_json_schema()
    _describe(schema, _descriptions_in(import_module(model.__module__)), model.__name__)
    return schema


@cache
def field_descriptions() -> Mapping[str, Mapping[str, str]]:
    """The text under each field of the recipe schema, by class name and field name."""
    from nexa.recipe import schema, sections

    modules = [schema, *(import_module(f"{sections.__name__}.{each.name}") for each in iter_modules(sections.__path__))]
    return {name: about for module in modules for name, about in _descriptions_in(module).items()}


def _descriptions_in(module: ModuleType) -> dict[str, dict[str, str]]:
    """The text under each field of the classes of a module; nothing where its source is not installed."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return {}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {node.name: _attribute_docstrings(node) for node in classes}


def _attribute_docstrings(section: ast.ClassDef) -> dict[str, str]:
    about: dict[str, str] = {}
    for statement, following in zip(section.body, section.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            about[statement.target.id] = " ".join(following.value.value.split())
    return about


def _renamed(node: Any, section: str) -> Any:
    """A plugin's schema with its references pointing to its renamed definitions."""
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", f"#/$defs/{section}.")
            if key == "$ref" and isinstance(value, str)
            else _renamed(value, section)
            for key, value in node.items()
        }
    return [_renamed(value, section) for value in node] if isinstance(node, list) else node


def _allow_inheritance(section: dict[str, Any]) -> None:
    """No key is required, and every key may be null."""
    section.pop("required", None)
    for name, field in section.get("properties", {}).items():
        options = field.get("anyOf")
        if options is not None:
            if {"type": "null"} not in options:
                field["anyOf"] = [*options, {"type": "null"}]
        else:
            about = {key: field[key] for key in ("default", "description", "title") if key in field}
            value = {key: field[key] for key in field if key not in about}
            section["properties"][name] = {"anyOf": [value, {"type": "null"}], **about}
