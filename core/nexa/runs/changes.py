"""How a run's recipe differs from others: from its recipe file as it is now, and from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa.runs.store import Run


def recipe_changes(run: Run) -> dict[str, tuple[Any, Any]]:
    """Fields in which the run's recipe differs from its recipe file as it is now: {path: (file, run)}.

    Empty where the file is gone or no longer loads.
    """
    from nexa.errors import NexaError
    from nexa.recipe.load import load_recipe

    path = run.document.get("recipe_path")
    if not path:
        return {}
    try:
        there = flat(load_recipe(path).recipe.document())
    except (NexaError, OSError):
        return {}
    return differences(there, flat(run.plan["recipe"]))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields of two flat documents that are not equal: {path: (there, here)}, None where one lacks it."""
    paths = [*here, *(path for path in there if path not in here)]
    return {path: (there.get(path), here.get(path)) for path in paths if there.get(path) != here.get(path)}


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            found.update(flat(value, path))
        else:
            found[path] = value
    return found
