"""The training methods of this backend, by the recipe's `method`; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from nexa.errors import UserError
from nexa_hf.methods.base import Method
from nexa_hf.methods.dpo import DPO
from nexa_hf.methods.grpo import GRPO
from nexa_hf.methods.kto import KTO
from nexa_hf.methods.orpo import ORPO
from nexa_hf.methods.pretrain import PRETRAIN
from nexa_hf.methods.reward import REWARD
from nexa_hf.methods.sft import SFT

METHODS: Mapping[str, Method] = {method.name: method for method in (PRETRAIN, SFT, DPO, KTO, ORPO, REWARD, GRPO)}
"""Every method, by name."""


def find_method(name: str) -> Method:
    """The method of a name. Raises UserError listing those there are."""
    if name not in METHODS:
        raise UserError(f"the hf backend has no method {name!r}", hint=f"it has {', '.join(METHODS)}")
    return METHODS[name]
