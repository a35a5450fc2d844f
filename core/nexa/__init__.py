"""Nexa: one recipe, any trainer, any machine.

Names are loaded on first use, so that importing `nexa` costs nothing and works in any environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ArtifactMeta": "nexa.artifacts",
    "TrainingPipeline": "nexa.launch",
    "hookimpl": "nexa.hookspecs",
    "launch": "nexa.launch",
    "load_training_config": "nexa.launch",
    "run_training_job": "nexa.launch",
    "save_run_manifest": "nexa.launch",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'nexa' has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
