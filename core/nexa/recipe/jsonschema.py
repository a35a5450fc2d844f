"""The JSON Schema of recipe files, for editors: the recipe's own keys and every plugin's section."""

from __future__ import annotations

from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_json_schema() -> dict[str, Any]:
    """The schema of a recipe file with the plugins now installed.

    It differs from the model of a resolved recipe as files do: an inherited key may be left out, a
    schedule may be a name, and null takes a value back. A plugin that can't be loaded has a section
    that takes any keys.
    """
    from nexa.errors import PluginError
    from nexa.plugins import get_host
    from nexa.recipe.schema import Recipe

    schema = Recipe.model_json_schema()
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
            options = model.model_json_schema()
            for name, definition in options.pop("$defs", {}).items():
                definitions[f"{section}.{name}"] = definition
            schema["properties"][section] = _renamed(options, section)
    schedule = definitions["OptimizerSection"]["properties"]["scheduler"]
    definitions["OptimizerSection"]["properties"]["scheduler"] = {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/LearningRateSchedule"}],
        "description": schedule.get("description", ""),
    }
    for section_schema in (*definitions.values(), schema):
        _allow_inheritance(section_schema)
    schema["anyOf"] = [{"required": ["extends"]}, {"required": ["method", "model", "data"]}]
    return {"$schema": DRAFT, **schema, "title": "Nexa recipe"}


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
