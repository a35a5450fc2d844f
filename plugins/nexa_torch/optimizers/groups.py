"""Which parameters get weight decay, and which are hidden matrices."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters into those with decay and those without.

    Vectors (norms, biases) and embeddings get none; neither does an output head that shares the
    embedding's weight.
    """
    embeddings = _embedding_weights(model)
    decayed, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def hidden_matrices(model: nn.Module) -> set[int]:
    """Ids of the trained matrices between embedding and output head."""
    outer = _embedding_weights(model) | _head_weights(model)
    return {id(p) for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in outer}


def _embedding_weights(model: nn.Module) -> set[int]:
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _head_weights(model: nn.Module) -> set[int]:
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    return {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()
