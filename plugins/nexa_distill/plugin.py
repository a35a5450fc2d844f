"""Registers the distiller `logits` and the method `distill` of the PyTorch backend; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import DistillerSpec, TaskSpec


@hookimpl
def nexa_register_distillers() -> Iterable[DistillerSpec]:
    """Return the distiller `logits`."""
    return [
        DistillerSpec(
            name="logits",
            summary="Records next-token predictions: draws, top-k with tail, or both, in about 45 bytes a token",
            factory="nexa_distill.distiller:LogitDistiller",
            capabilities=frozenset({"compare", "export", "text", "verify"}),
        )
    ]


@hookimpl
def nexa_register_tasks() -> Iterable[TaskSpec]:
    """Return the method `distill`."""
    return [
        TaskSpec(
            name="distill",
            summary="A student learns a teacher's predictions, recorded or in the step",
            factory="nexa_distill.task:DistillTask",
            data_module="nexa_distill.data:DistillDataModule",
            check="nexa_distill.checks:find_problems",
            honours=("distill.*",),
            refuses=("distill.on_policy.*",),
            capabilities=frozenset({"language"}),
        )
    ]
