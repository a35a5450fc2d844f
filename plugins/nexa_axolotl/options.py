"""The recipe section `axolotl`: Axolotl's own configuration keys, by its own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

SECTION = "axolotl"


def _any_keys(schema: dict[str, Any]) -> None:
    """In a file the keys stand in the section itself."""
    schema.pop("properties", None)
    schema["additionalProperties"] = True


class AxolotlOptions(BaseModel):
    """Keys of an Axolotl configuration that a recipe has no neutral name for.

    Which there are is Axolotl's to say: they are compared with the schema of the Axolotl that will train, when a
    launch is checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_any_keys)

    keys: dict[str, Any] = {}
    """Axolotl's keys, written in the section itself: `axolotl: {lora_modules_to_save: [lm_head]}`."""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        return {"keys": data} if isinstance(data, Mapping) else data

    @model_serializer(mode="plain")
    def _spread(self) -> dict[str, Any]:
        return self.keys


def own_options(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe's `axolotl` section, empty where it has none."""
    return recipe.plugin_options.get(SECTION, {})
