"""Registers the Hugging Face backend; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec, RewardSpec
from nexa_hf.backend import FACTORY
from nexa_hf.methods import METHODS
from nexa_hf.rewards.specs import REWARDS


@hookimpl
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the backend `hf`."""
    return [
        BackendSpec(
            name="hf",
            summary="Hugging Face: transformers.Trainer, TRL and PEFT, with FSDP or DeepSpeed through accelerate",
            factory=FACTORY,
            options_model="nexa_hf.options:HfOptions",
            capabilities=frozenset({"chat", "estimate", "export", "prepare", "resume"}),
            methods=tuple(METHODS),
            requirements=("nexa-train[hf]",),
            probes=("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
        )
    ]


@hookimpl
def nexa_register_rewards() -> Iterable[RewardSpec]:
    """Return rewards that a program verifies."""
    return REWARDS
