"""Batches of any shape: a tensor, or mappings and sequences of tensors and other values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nexa.errors import UserError


def batch_rows(batch: Any) -> int:
    """Length of the first dimension of the first tensor in a batch: a tensor, mapping or sequence of them.

    Raises UserError where there is none.
    """
    if isinstance(batch, Tensor) and batch.ndim:
        return len(batch)
    parts: Any = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    for part in parts:
        if isinstance(part, (Tensor, Mapping, list, tuple)):
            return batch_rows(part)
    raise UserError(
        f"a batch of type {type(batch).__name__} holds no tensor to count rows by",
        hint="override batch_weight and batch_size in the task",
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`; other values stay as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def tensors_in(batch: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a batch with its place: the keys and indices on the way to it, joined by dots."""
    if isinstance(batch, Tensor):
        yield place or "batch", batch
        return
    parts: Any = batch.items() if isinstance(batch, Mapping) else ()
    if isinstance(batch, (list, tuple)):
        parts = enumerate(batch)
    for key, value in parts:
        yield from tensors_in(value, f"{place}.{key}" if place else str(key))


def describe(tensor: Tensor) -> str:
    """Type, shape and range of a tensor in one line."""
    text = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if not tensor.numel() or tensor.is_complex():
        return text
    return f"{text}, {tensor.min().item():.4g} to {tensor.max().item():.4g}, mean {tensor.double().mean().item():.4g}"
