"""torch.compile for the blocks of a model: compiled once for all of them, and for training alone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def compile_blocks(network: nn.Module) -> int:
    """Compile the repeated blocks of a transformers model, in place; returns their number.

    Blocks share their code, so that one compilation serves all. Evaluation and generation run
    uncompiled: their shapes change from call to call, each of which would be compiled anew. What
    can't be compiled raises in the first step; nothing falls back to slower code silently.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        _compile_for_training(block)
    return len(blocks)


def _compile_for_training(block: nn.Module) -> None:
    import torch

    plain = block.forward
    compiled = torch.compile(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*args, **kwargs) if block.training else plain(*args, **kwargs)

    block.forward = forward  # type: ignore[method-assign]


def missing_compiler() -> str | None:
    """What torch.compile lacks on this machine's CPU, None where it has a C++ compiler."""
    named = os.environ.get("CXX")
    candidates = (named,) if named else ("g++", "clang++")
    if any(shutil.which(candidate) for candidate in candidates):
        return None
    return f"torch.compile needs a C++ compiler and finds none of: {', '.join(candidates)}"
