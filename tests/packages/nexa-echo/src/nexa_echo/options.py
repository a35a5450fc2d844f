"""The recipe section `echo:`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class EchoOptions(BaseModel):
    """Options of the backend `echo`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    delay_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    """Seconds to wait in every step, to watch a run at leisure."""


class EchoRewardOptions(BaseModel):
    """Options of the reward `echo-words`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """What each word more than the prompt has takes away."""
