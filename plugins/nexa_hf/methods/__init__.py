"""The training methods of this backend, by the recipe's `method`; a method's module is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa_hf.methods.base import Method

METHODS: Mapping[str, str] = {
    "pretrain": "nexa_hf.methods.pretrain:PRETRAIN",
    "sft": "nexa_hf.methods.sft:SFT",
    "dpo": "nexa_hf.methods.dpo:DPO",
    "kto": "nexa_hf.methods.kto:KTO",
    "orpo": "nexa_hf.methods.orpo:ORPO",
    "reward": "nexa_hf.methods.reward:REWARD",
    "grpo": "nexa_hf.methods.grpo:GRPO",
    "distill": "nexa_hf.methods.distill:DISTILL",
}
"""Where each method is, as "module:attribute", by name."""


def find_method(name: str) -> Method:
    """The method of a name. Raises UserError listing those there are."""
    if name not in METHODS:
        raise UserError(f"the hf backend has no method {name!r}", hint=f"it has {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    method: Method = getattr(import_module(module), attribute)
    return method
