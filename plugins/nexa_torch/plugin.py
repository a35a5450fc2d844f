"""Registers the PyTorch backend; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec
from nexa_torch.backend import FACTORY, METHODS


@hookimpl
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the backend `torch`."""
    return [
        BackendSpec(
            name="torch",
            summary="Nexa's own PyTorch engine: pretraining and fine-tuning of causal language models",
            factory=FACTORY,
            options_model="nexa_torch.options:TorchOptions",
            capabilities=frozenset({"chat", "estimate", "prepare", "resume"}),
            methods=METHODS,
        )
    ]
