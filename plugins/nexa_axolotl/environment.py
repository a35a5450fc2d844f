"""Which interpreter Axolotl lives in. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

VARIABLE = "NEXA_AXOLOTL_PYTHON"
"""Names an interpreter that has Axolotl, where the recipe leaves its environment open."""


def interpreter(recipe: Recipe) -> Path | None:
    """The interpreter that will train `recipe`; None where there is none on this machine."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return Path(sys.executable) if importlib.util.find_spec("axolotl") is not None else None
