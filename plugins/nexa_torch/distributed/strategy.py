"""How a model is spread over processes: a copy on each (ddp), or a shard on each (fsdp)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nexa_torch.distributed.synchronize import GradientSynchronizer

if TYPE_CHECKING:
    from nexa.recipe.schema import DistributedSection
    from nexa_torch.distributed.ranks import Ranks


class Strategy(ABC):
    """What the engine asks of a spread model; the same calls on every rank, in the same order.

    The engine scales each rank's loss so that the *sum* of gradients over ranks is the gradient of the
    whole batch's mean loss; a strategy never divides.
    """

    name: str
    equal_passes: bool
    """Whether every rank must do the same number of forward and backward passes, with weight 0 where it
    has no data: a sharded model is put together by all ranks for each pass."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @abstractmethod
    def spread(self, network: nn.Module, *, whole: nn.Module | None = None) -> None:
        """Move the model to its device and spread it, in place; before the optimizer is built.

        whole: the module whose parameters an adapter added too, where `network` is inside it.
        """

    @abstractmethod
    def forward_method(self, network: nn.Module, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which uses weights of `network` outside its own forward, made safe to call.

        name: attribute of `network` under which it is known.
        """

    @abstractmethod
    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Around each backward pass; `last` on the last one of the optimizer step."""

    @abstractmethod
    def sum_gradients(self) -> None:
        """After the last backward pass: leave the gradients' sum over ranks, or this rank's shard of it."""

    @abstractmethod
    def full_state(self, module: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
        """Every weight whole, copied to CPU memory of rank 0; empty on the other ranks.

        trained_only: leave out parameters that are not trained. Names are those of
        `module.state_dict()`. All ranks call it.
        """

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Global L2 norm of the gradients, the same on every rank, as a plain tensor."""
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def clip(self, parameters: Iterable[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Scale the gradients down to the global L2 norm `limit`, given their `norm`."""
        clip_grads_with_norm_(parameters, limit, norm)


class ReplicatedStrategy(Strategy):
    """A whole copy of the model on every rank; gradients are added after, or during, the backward pass."""

    name = "ddp"
    equal_passes = False

    def spread(self, network: nn.Module, *, whole: nn.Module | None = None) -> None:
        """Move the model to this rank's device."""
        module = network if whole is None else whole
        module.to(self.ranks.device)
        self._synchronizer = GradientSynchronizer(module.parameters(), world_size=self.ranks.world_size)
        # On CPU the sums would take cores from the very computation they overlap with.
        self._overlaps = self.ranks.world_size > 1 and self.ranks.device.type != "cpu"

    def forward_method(self, network: nn.Module, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Every weight is always there."""
        return function

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Send gradients during the step's last backward pass where that is faster."""
        return self._synchronizer.overlapping() if last and self._overlaps else nullcontext()

    def sum_gradients(self) -> None:
        """Add the gradients over all ranks."""
        self._synchronizer.sum()

    def full_state(self, module: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
        """Copies of rank 0's weights."""
        if not self.ranks.is_main:
            return {}
        left_out = frozen_names(module) if trained_only else set()
        state = module.state_dict(keep_vars=True)
        return copy_to_cpu({name: value for name, value in state.items() if name not in left_out})


def frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained, every name of a shared one."""
    return {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def copy_to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later steps do not change; tensors that share memory still do, so that ties survive."""
    copies: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, value in state.items():
        key = (value.data_ptr(), tuple(value.shape))
        if key not in copies:
            copies[key] = torch.empty_like(value, device="cpu").copy_(value.detach())
        result[name] = copies[key]
    return result


def choose_strategy(section: DistributedSection, ranks: Ranks, *, precision: str) -> Strategy:
    """The strategy that a recipe asks for; one process has nothing to shard and holds the whole model."""
    if section.strategy == "fsdp" and ranks.world_size > 1:
        from nexa_torch.distributed.fsdp import ShardedStrategy

        return ShardedStrategy(ranks, section, precision=precision)
    return ReplicatedStrategy(ranks)
