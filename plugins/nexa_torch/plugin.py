"""Registers the PyTorch backend and its tasks; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec, TaskSpec
from nexa_torch.backend import FACTORY
from nexa_torch.tasks.registry import TASKS


@hookimpl
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the backend `torch`."""
    return [
        BackendSpec(
            name="torch",
            summary="Nexa's own PyTorch engine: language models, and any task that a plugin brings",
            factory=FACTORY,
            options_model="nexa_torch.options:TorchOptions",
            capabilities=frozenset({"chat", "estimate", "export", "language-model", "prepare", "resume", "serve"}),
            methods=tuple(TASKS),
            requirements=("nexa-train[torch]",),
            probes=("torch", "transformers", "safetensors", "numpy"),
        )
    ]


@hookimpl
def nexa_register_tasks() -> Iterable[TaskSpec]:
    """Return the methods of the backend as tasks."""
    return list(TASKS.values())
