"""Makes plugin objects from the factory paths in a plan. Standard library only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nexa.errors import PluginError


def create(factory: str) -> Any:
    """Call the factory at "module:attribute" and return its product.

    Raises PluginError when it can't be imported; what the factory itself raises passes through.
    """
    module_name, _, attribute = factory.partition(":")
    try:
        target: Any = import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{factory} can't be loaded in the worker's environment: {error}",
            hint="install the plugin there, or check with: nexa doctor",
        ) from error
    return target()
