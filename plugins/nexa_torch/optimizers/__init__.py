"""Optimizers by name, with decay on matrices only. Torch is imported when one is built."""

from nexa_torch.optimizers.registry import (
    OPTIMIZERS,
    OptimizerKind,
    build_optimizer,
    missing_package,
    setting,
    state_bytes,
    unknown_optimizer,
)

__all__ = [
    "OPTIMIZERS",
    "OptimizerKind",
    "build_optimizer",
    "missing_package",
    "setting",
    "state_bytes",
    "unknown_optimizer",
]
