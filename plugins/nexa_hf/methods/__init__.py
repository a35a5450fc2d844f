"""The training methods of this backend, by the recipe's `method`; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from nexa.errors import UserError
from nexa_hf.methods.base import Method
from nexa_hf.methods.pretrain import PRETRAIN
from nexa_hf.methods.sft import SFT

METHODS: Mapping[str, Method] = {method.name: method for method in (PRETRAIN, SFT)}
"""Every method, by name."""


def find_method(name: str) -> Method:
    """The method of a name. Raises UserError listing those there are."""
    if name not in METHODS:
        raise UserError(f"the hf backend has no method {name!r}", hint=f"it has {', '.join(METHODS)}")
    return METHODS[name]
