"""`python schema_dump.py [PLUGIN ...]`: print, as JSON, which configuration the Axolotl of this interpreter takes.

A plugin of Axolotl's, named as under its key `plugins`, brings keys of its own. Besides the JSON Schema of the
configuration: the keys that it takes and that none of Axolotl's code reads, which would be ignored without a word.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SCHEMAS = ("utils", "schemas")


def main(plugins: list[str]) -> int:
    """Print version, schema and the keys without effect."""
    print(json.dumps(describe(plugins)))
    return 0


def describe(plugins: Iterable[str] = ()) -> dict[str, Any]:
    """Version, schema with the keys of these plugins, and the keys without effect, as JSON values.

    Raises ImportError or AttributeError for a plugin that can't be loaded.
    """
    from axolotl.integrations.base import PluginManager, load_plugin
    from axolotl.integrations.config import merge_input_args
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import PydanticSerializationError

    class Plain(GenerateJsonSchema):
        """JSON Schema in which a choice of Python objects is a choice of their names."""

        def enum_schema(self, schema: Any) -> dict[str, Any]:
            try:
                return super().enum_schema(schema)
            except PydanticSerializationError:
                return {"enum": [str(member.value).removeprefix("torch.") for member in schema["members"]]}

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    for name in plugins:
        # Axolotl's own `register` goes on without a plugin that it can't import.
        PluginManager.get_instance().plugins[name] = load_plugin(name)
    _, merged = merge_input_args()
    schema = merged.model_json_schema(schema_generator=Plain)
    read = _names_read()
    return {
        "axolotl": importlib.metadata.version("axolotl"),
        "python": platform.python_version(),
        "schema": schema,
        "unread": sorted(name for name in AxolotlInputConfig.model_fields if name not in read),
    }


def _names_read() -> set[str]:
    """Every attribute, string and keyword in Axolotl's code outside the declarations of its schema."""
    import axolotl

    root = Path(next(iter(axolotl.__path__)))
    names: set[str] = set()
    for file in root.rglob("*.py"):
        declares = file.relative_to(root).parts[:2] == _SCHEMAS
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg and not declares:
                names.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
