"""Nexa: one recipe, any trainer, any machine.

Names are loaded on first use, so that importing `nexa` costs nothing and works in any environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nexa.api import (
        TrainingPipeline,
        distill_teacher,
        launch,
        load_training_config,
        run_training_job,
        save_run_manifest,
    )
    from nexa.artifacts import ArtifactMeta
    from nexa.hookspecs import hookimpl

_EXPORTS = {
    "ArtifactMeta": "nexa.artifacts",
    "TrainingPipeline": "nexa.api",
    "distill_teacher": "nexa.api",
    "hookimpl": "nexa.hookspecs",
    "launch": "nexa.api",
    "load_training_config": "nexa.api",
    "run_training_job": "nexa.api",
    "save_run_manifest": "nexa.api",
}

__all__ = [
    "ArtifactMeta",
    "TrainingPipeline",
    "__version__",
    "distill_teacher",
    "hookimpl",
    "launch",
    "load_training_config",
    "run_training_job",
    "save_run_manifest",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'nexa' has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
