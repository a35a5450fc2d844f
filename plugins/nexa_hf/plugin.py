"""Registers the Hugging Face backend; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec, Conformance, RewardSpec
from nexa_hf.backend import FACTORY, REQUIRED
from nexa_hf.methods import METHODS
from nexa_hf.rewards.specs import REWARDS

DIFFERENCES = {
    "lr": "transformers begins its warm-up at rate 0, so the first step of a warm-up changes nothing",
    "curve": "transformers decays embeddings too, all but norms and biases",
}
"""What the conformance kit finds to be otherwise than in its reference, by the libraries' design."""


@hookimpl
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the backend `hf`."""
    return [
        BackendSpec(
            name="hf",
            summary="Hugging Face: transformers.Trainer, TRL and PEFT, with FSDP or DeepSpeed through accelerate",
            factory=FACTORY,
            options_model="nexa_hf.options:HfOptions",
            capabilities=frozenset({"chat", "estimate", "export", "language-model", "prepare", "resume"}),
            conformance=Conformance(differences=DIFFERENCES),
            methods=tuple(METHODS),
            requirements=("nexa-train[hf]",),
            probes=REQUIRED,
        )
    ]


@hookimpl
def nexa_register_rewards() -> Iterable[RewardSpec]:
    """Return rewards that a program verifies."""
    return REWARDS
