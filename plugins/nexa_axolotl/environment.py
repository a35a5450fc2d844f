"""Which interpreter Axolotl lives in, on this machine. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def interpreter(recipe: Recipe) -> Path | None:
    """The interpreter that will train `recipe`, whose environment is chosen; None where it can't be seen from here."""
    from nexa.environments.store import EnvironmentStore
    from nexa.recipe.sections.environment import AUTO, CURRENT
    from nexa.settings import get_settings

    section = recipe.environment
    if section.container is not None:
        return None
    if section.name in (AUTO, CURRENT):
        return Path(sys.executable) if importlib.util.find_spec("axolotl") is not None else None
    if "/" in section.name:
        path = Path(section.name)
        return path / "bin" / "python" if path.is_dir() else path
    named = EnvironmentStore(get_settings().environments_dir).find(section.name)
    built = named.environment if named is not None else None
    return built.interpreter if built is not None else None
