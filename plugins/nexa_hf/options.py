"""The recipe section `hf`: what only this backend understands."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from nexa.recipe.schema import Recipe

SECTION = "hf"


class HfOptions(BaseModel):
    """Options of the Hugging Face backend."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    arguments: dict[str, Any] = {}
    """Arguments of the method's own class (TrainingArguments, SFTConfig, …) that no recipe key stands for."""
    deepspeed: str | dict[str, Any] | None = None
    """DeepSpeed configuration, a JSON file or a mapping, handed to accelerate as it is. Default: not used."""
    fsdp: dict[str, Any] = {}
    """Further keys of transformers' fsdp_config, for distributed.strategy=fsdp."""


def hf_options(recipe: Recipe) -> HfOptions:
    """The recipe's `hf` section, defaults where it has none."""
    return HfOptions.model_validate(recipe.plugin_options.get(SECTION, {}))
