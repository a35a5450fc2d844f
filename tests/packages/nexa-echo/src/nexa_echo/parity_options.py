"""The recipe section `parity`, and what a recipe of this task must say; imports no torch."""

from __future__ import annotations

from nexa.errors import Problem
from pydantic import BaseModel, Field

BITS = 8
MODEL = "parity-net"


class ParityOptions(BaseModel, extra="forbid"):
    """Section `parity`."""

    width: int = Field(default=32, gt=0, description="Units of the hidden layer.")


def find_problems(recipe):
    """What stops a parity recipe."""
    if recipe.model.name != MODEL:
        return [Problem(path="model.name", message=f"parity has one model, {MODEL}", hint=f"set model.name={MODEL}")]
    return []
