"""Causal attention document by document: a packed row costs what its documents cost, and no mask is ever built.

A mask keeps documents of a row apart but computes all of the row; documents of a quarter of a row need a
quarter of that. Where documents end travels in the mask's place, as their lengths, so that every
architecture that hands its mask to transformers' attention interface hands that on too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "nexa_documents"
"""What transformers knows this attention by, in this process; no saved configuration holds it."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_BEYOND = ("softcap", "s_aux", "position_bias", "cache")
"""Arguments of the attention interface that plain causal attention has no answer to."""
_LENGTHS_DTYPE = torch.int64


def document_lengths(positions: Tensor) -> list[int]:
    """Tokens of each document of a batch, row after row, padding at a row's end with the last.

    positions: int64 [rows, width], place within the document; whatever does not follow the one before starts one.
    """
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    first = starts.flatten().nonzero().squeeze(-1)
    lengths: list[int] = torch.diff(first, append=first.new_tensor([positions.numel()])).tolist()
    return lengths


def in_place_of_mask(lengths: list[int]) -> Tensor:
    """Document lengths as a tensor that models hand to their attention unread, as they do any ready mask."""
    return torch.tensor(lengths, dtype=_LENGTHS_DTYPE).view(1, 1, 1, -1)


def attend_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface wants it; plain `sdpa` where the mask is a mask or None.

    query: [rows, heads, width, d]; key, value: [rows, key heads, width, d]. Returns [rows, width, heads, d].
    """
    if attention_mask is None or attention_mask.dtype != _LENGTHS_DTYPE:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return attended
    if unknown := [name for name in _BEYOND if options.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    rows, heads, width, _ = query.shape
    groups = key.shape[1]
    lengths = attention_mask.flatten().tolist()
    # Query heads that share keys are the second dimension, along which keys are one without being copied.
    parts = zip(*(_split(tensor, groups, lengths) for tensor in (query, key, value)), strict=True)
    outputs = [
        functional.scaled_dot_product_attention(
            queries,
            keys.expand(-1, heads // groups, -1, -1),
            values.expand(-1, heads // groups, -1, -1),
            dropout_p=dropout,
            scale=scaling,
            is_causal=True,
        ).permute(2, 0, 1, 3)
        for queries, keys, values in parts
    ]
    return torch.cat(outputs).reshape(rows, width, heads, value.shape[-1]), None


def _split(tensor: Tensor, groups: int, lengths: list[int]) -> list[Tensor]:
    """[rows, heads, width, d] as one view a document, [groups, heads ÷ groups, length, d]."""
    tokens = tensor.transpose(1, 2).flatten(0, 1).unflatten(1, (groups, -1))
    return [part.permute(1, 2, 0, 3) for part in tokens.split(lengths)]


def enable(network: PreTrainedModel) -> bool:
    """Let a model that uses torch's `sdpa` attention take document lengths; returns whether it can.

    Without lengths it computes as before.
    """
    if network.config._attn_implementation != "sdpa" or not network._can_set_attn_implementation():
        return False
    network.set_attn_implementation(NAME)
    return True


def enabled(network: PreTrainedModel) -> bool:
    """Whether a model takes document lengths; what sets another attention later ends that."""
    return bool(network.config._attn_implementation == NAME)


def disable(network: PreTrainedModel) -> None:
    """Undo `enable`."""
    network.set_attn_implementation("sdpa")


def longest_whole_document(network: PreTrainedModel) -> int | None:
    """Tokens of a document up to which no layer's window cuts its attention; None where no layer has a window."""
    config = network.config.get_text_config()
    windows = [getattr(config, name, None) for name in _WINDOWS]
    return min((window for window in windows if isinstance(window, int)), default=None)


# Here, so that every process knows the name before it meets a configuration from another one.
AttentionInterface.register(NAME, attend_documents)
AttentionMaskInterface.register(NAME, sdpa_mask)
