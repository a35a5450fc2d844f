"""How a model is spread over processes: a copy on each (ddp), or a shard on each (fsdp)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nexa_torch.distributed.synchronize import GradientSynchronizer

if TYPE_CHECKING:
    from nexa.recipe.sections.machines import DistributedSection
    from nexa_torch.distributed.ranks import Ranks
    from nexa_torch.engine.windows import Microbatch
    from nexa_torch.tasks.base import TrainingTask


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

    def build(self, task: TrainingTask, restore_from: Path | None) -> nn.Module:
        """The task's model with a checkpoint's weights, where it has one, for `spread`.

        Raises what the task raises, on every rank.
        """
        model = task.build_model()
        if restore_from is not None:
            task.restore(model, restore_from)
        return model

    @abstractmethod
    def spread(self, model: nn.Module, task: TrainingTask) -> nn.Module:
        """Move the model to its device and spread it, in place; before the optimizer is built.

        Makes `task`'s step methods safe to call where they use weights outside the model's own forward.
        """

    def passes(self, parts: Sequence[Microbatch], idle_batch: Callable[[], Any]) -> Iterator[tuple[Microbatch, bool]]:
        """The forward and backward passes of this rank in one optimizer step, and whether each is the last.

        idle_batch: gives what to compute on, with weight 0, where others have more microbatches and all
        must compute together.
        """
        for number, part in enumerate(parts, 1):
            yield part, number == len(parts)

    @abstractmethod
    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Around each backward pass; `last` on the last one of the optimizer step."""

    @abstractmethod
    def sum_gradients(self) -> None:
        """After the last backward pass: leave the gradients' sum over ranks, or this rank's shard of it."""

    @abstractmethod
    def full_state(self, model: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
        """Every weight whole, on rank 0; empty on the other ranks. All ranks call it.

        trained_only: leave out parameters that are not trained. The tensors may be those in use. Names
        are those of `model.state_dict()`; shared weights stay shared.
        """


class ReplicatedStrategy(Strategy):
    """A whole copy of the model on every rank; gradients are added after, or during, the backward pass."""

    name = "ddp"
    equal_passes = False

    def spread(self, model: nn.Module, task: TrainingTask) -> nn.Module:
        """Move the model to this rank's device."""
        model.to(self.ranks.device)
        self._synchronizer = GradientSynchronizer(model.parameters(), world_size=self.ranks.world_size)
        # On CPU the sums would take cores from the very computation they overlap with.
        self._overlaps = self.ranks.world_size > 1 and self.ranks.device.type != "cpu"
        return model

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Send gradients during the step's last backward pass where that is faster."""
        return self._synchronizer.overlapping() if last and self._overlaps else nullcontext()

    def sum_gradients(self) -> None:
        """Add the gradients over all ranks."""
        self._synchronizer.sum()

    def full_state(self, model: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
        """Rank 0's weights."""
        if not self.ranks.is_main:
            return {}
        state = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
        for name in frozen_names(model) if trained_only else ():
            state.pop(name, None)
        return state


def frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained, every name of a shared one."""
    return {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def choose_strategy(section: DistributedSection, ranks: Ranks, *, precision: str) -> Strategy:
    """The strategy that a recipe asks for; one process has nothing to shard and holds the whole model."""
    if section.strategy == "fsdp" and ranks.world_size > 1:
        from nexa_torch.distributed.fsdp import ShardedStrategy

        return ShardedStrategy(ranks, section, precision=precision)
    return ReplicatedStrategy(ranks)
