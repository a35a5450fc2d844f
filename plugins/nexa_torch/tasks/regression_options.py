"""The recipe section `regression`, and what a recipe of this task must say; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nexa.errors import Problem

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

MODEL = "mlp"
DATA = "synthetic:regression"
_Positive = Annotated[int, Field(gt=0)]


class RegressionOptions(BaseModel):
    """Sizes of the model and of the made-up data."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    n_samples: Annotated[int, Field(ge=2)] = 1024
    """Rows made, held-out ones included."""
    n_features: _Positive = 8
    """Inputs of a row, drawn from a standard normal distribution."""
    n_targets: _Positive = 1
    """Outputs of a row: a linear function of the inputs with unit variance, plus noise."""
    noise: Annotated[float, Field(ge=0.0)] = 0.1
    """Standard deviation of the normal noise on the outputs; its square is the lowest loss that can be reached."""
    hidden_sizes: list[_Positive] = [32, 32]
    """Widths of the hidden layers; empty for a linear model."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout behind each hidden layer."""


def regression_options(recipe: Recipe) -> RegressionOptions:
    """The recipe's `regression` section, defaults where it has none."""
    section: dict[str, Any] = recipe.plugin_options.get("regression", {})
    return RegressionOptions.model_validate(section)


def find_problems(recipe: Recipe) -> Iterator[Problem]:
    """What stops a regression recipe from being trained."""
    named = {"model.name": (recipe.model.name, MODEL), "data.remote_uri": (recipe.data.remote_uri, DATA)}
    for path, (value, wanted) in named.items():
        if value != wanted:
            yield Problem(path=path, message=f"task regression does not know {value!r}", hint=f"set {path}={wanted}")
