"""The recipe section `axolotl`: Axolotl's own configuration keys, by its own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

SECTION = "axolotl"


class AxolotlOptions(BaseModel):
    """Keys of an Axolotl configuration that have no neutral name.

    They are compared with the schema of the Axolotl that trains, when the launch is checked.
    """

    model_config = ConfigDict(extra="allow", frozen=True)


def own_options(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe's `axolotl` section, empty where it has none."""
    return recipe.plugin_options.get(SECTION, {})
