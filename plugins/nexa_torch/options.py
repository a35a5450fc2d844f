"""The recipe section `torch`: what only this backend understands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nexa.recipe.schema import Recipe

SECTION = "torch"


class TorchOptions(BaseModel):
    """Options of the PyTorch backend."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    cpu_matmul: Literal["auto", "native", "onednn"] = "auto"
    """Library for fp32 matrix products on CPU: torch's native BLAS, oneDNN, or whichever measures
    faster at start at fp32 accuracy. A resumed run keeps the choice of its first attempt."""
    loss_chunk: Annotated[int, Field(ge=16)] = 512
    """Trained tokens whose logits exist at the same time; less memory when smaller, same result."""


def torch_options(recipe: Recipe) -> TorchOptions:
    """The recipe's `torch` section, defaults where it has none."""
    return TorchOptions.model_validate(recipe.plugin_options.get(SECTION, {}))


def recipe_from_document(document: dict[str, Any]) -> Recipe:
    """Rebuild a recipe from `Recipe.document()`, plugin sections included."""
    return Recipe.from_document(document)
