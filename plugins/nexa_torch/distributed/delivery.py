"""Weights from rank 0 to ranks whose model has none yet, piece by piece, so that none of them ever holds it whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from nexa_torch.distributed.ranks import Ranks


class Delivery:
    """Sends each tensor of a model once; all ranks ask for the same parts in the same order.

    model: whole on rank 0, of the same shape and perhaps on the meta device elsewhere.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        self._names = {id(module): name for name, module in model.named_modules()}
        self._owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in model.modules():
            for name, tensor in _own_tensors(module):
                self._owners[id(tensor)].append((module, name))
        self._sent: set[str] = set()

    def send(self, part: nn.Module) -> None:
        """Give this rank's `part` of the model rank 0's weights and buffers, where they were not sent before."""
        prefix = self._names[id(part)]
        for name, tensor in [*part.named_parameters(prefix), *part.named_buffers(prefix)]:
            if name not in self._sent:
                self._sent.add(name)
                self._send(tensor)

    def _send(self, tensor: Tensor) -> None:
        device = self._ranks.device
        if self._ranks.is_main:
            dist.broadcast(tensor.detach().to(device).contiguous(), src=0)
            return
        received = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        dist.broadcast(received, src=0)
        # A shared weight is replaced wherever it stands, so that it stays shared.
        for module, name in self._owners[id(tensor)]:
            if name in module._buffers:
                module._buffers[name] = received
        if isinstance(tensor, nn.Parameter):
            parameter = nn.Parameter(received, requires_grad=tensor.requires_grad)
            for module, name in self._owners[id(tensor)]:
                module._parameters[name] = parameter


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for tensors in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in tensors.items() if tensor is not None)
