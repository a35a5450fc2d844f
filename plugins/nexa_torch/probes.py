"""What can only be found out about a loaded model by trying it on a few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nexa_torch.kernels import attention, norms

if TYPE_CHECKING:
    from nexa_torch.models import LanguageModel

_TOKENS = 6
_TOLERANCE = 1e-3
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What an architecture may raise that reads a mask for itself."""


@torch.no_grad()
def head_is_plain(model: LanguageModel) -> bool:
    """Whether logits are exactly hidden · weightᵀ + bias: no scaling, no soft cap, no further layer."""
    head = model.network.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    model.network.eval()
    tokens = torch.arange(1, 1 + _TOKENS).remainder(model.vocabulary).unsqueeze(0)
    logits = model.network(input_ids=tokens, use_cache=False).logits
    product = nn.functional.linear(model.hidden_states(tokens, None), head.weight, head.bias)
    return _close(logits, product)


@torch.no_grad()
def documents_stay_apart(model: LanguageModel) -> bool:
    """Whether the second document of a packed row is computed as if it stood alone.

    Found out by trying, since some models (recurrent ones, for example) carry state across a row
    whatever the positions say.
    """
    if not model.takes_positions:
        return False
    model.network.eval()
    tokens, positions = _two_documents(model)
    packed = model.hidden_states(tokens, positions)[:, _TOKENS:]
    alone = model.hidden_states(tokens[:, _TOKENS:], positions[:, _TOKENS:])
    return _close(packed, alone)


@torch.no_grad()
def attend_by_document(model: LanguageModel) -> bool:
    """Make a model attend to the documents of packed rows on CPU one by one, where that gives what it gave before.

    Found out by trying; otherwise the model stays as it was. A model without weights can't be tried: its configuration
    says what another rank found. Returns whether it does.
    """
    if model.network.device.type == "meta" or not model.takes_positions:
        return attention.enabled(model.network)
    model.network.eval()
    inputs = _two_documents(model)
    masked = model.hidden_states(*inputs)
    if not attention.enable(model.network):
        return False
    try:
        same = _close(model.hidden_states(*inputs), masked)
    except _REFUSALS:
        same = False
    if not same:
        attention.disable(model.network)
    return same


def choose_kernels(model: LanguageModel, *, packing: bool) -> str:
    """Make a model that is trained on CPU compute faster where that gives the same; returns what was chosen, in words.

    packing: whether rows hold several documents.
    """
    chosen = []
    if packing:
        chosen.append("attention by document" if attend_by_document(model) else "attention with a mask")
    if fused := norms.fuse(model.network):
        chosen.append(f"{fused} norms fused")
    return ", ".join(chosen) or "the model's own"


def _two_documents(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Tokens and positions of a row that holds two documents, [1, 2 × _TOKENS]."""
    device = model.network.device
    tokens = torch.arange(1, 1 + 2 * _TOKENS, device=device).remainder(model.vocabulary).unsqueeze(0)
    return tokens, torch.arange(_TOKENS, device=device).repeat(2).unsqueeze(0)


def _close(ours: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(ours, wanted, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
