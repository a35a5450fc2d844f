"""Fully sharded training: every rank keeps a part of each weight, its gradient and its optimizer state.

A block's weights are put together when it is computed and let go afterwards (torch's FSDP2,
`fully_shard`), so that a model may be larger than one device's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from nexa_torch.distributed.delivery import Delivery
from nexa_torch.distributed.strategy import Strategy, frozen_names
from nexa_torch.engine.windows import Microbatch

if TYPE_CHECKING:
    from nexa.recipe.sections.machines import DistributedSection
    from nexa_torch.distributed.ranks import Ranks
    from nexa_torch.tasks.base import TrainingTask


class ShardedStrategy(Strategy):
    """FSDP2 over all ranks: one group for each block, one for what is left (embedding, final norm, head)."""

    name = "fsdp"
    equal_passes = True

    def __init__(self, ranks: Ranks, section: DistributedSection, *, precision: str) -> None:
        super().__init__(ranks)
        self._section = section
        self._delivers = False
        # Weights travel and are kept for the backward pass in the precision they are computed with;
        # gradients are added in fp32.
        self._precision = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
            if precision == "bf16"
            else MixedPrecisionPolicy(cast_forward_inputs=False)
        )

    def build(self, task: TrainingTask, restore_from: Path | None) -> nn.Module:
        """The whole model on rank 0 alone, and its shape elsewhere, where the task can tell it."""
        model = super().build(task, restore_from) if self.ranks.is_main else None
        # Loading may take longer than a collective may.
        self.ranks.gather("model built")
        outline = self.ranks.from_main(task.outline)
        self._delivers = outline is not None
        if model is not None:
            return model
        return task.build_empty(outline) if self._delivers else super().build(task, restore_from)

    def spread(self, model: nn.Module, task: TrainingTask) -> nn.Module:
        """Shard every block, then the rest of the model; the parameters become DTensors.

        Group by group, so that a device, or a rank that gets its weights from rank 0, never holds the whole model.
        """
        delivery = Delivery(model, self.ranks) if self._delivers else None
        mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world_size,), mesh_dim_names=("ranks",))
        offloads = self._section.cpu_offload and self.ranks.device.type != "cpu"
        options: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": self._precision,
            "offload_policy": CPUOffloadPolicy() if offloads else OffloadPolicy(),
        }
        for block in find_blocks(model):
            if delivery is not None:
                delivery.send(block)
            fully_shard(block, reshard_after_forward=self._section.reshard_after_forward, **options)
        if delivery is not None:
            delivery.send(model)
        # What the forward pass ends with the backward pass begins with.
        fully_shard(model, reshard_after_forward=False, **options)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._model = model
        if task.uses_weights:
            for name in ("train_step", "validation_step", "sampled_step"):
                setattr(task, name, _as_forward(model, name, getattr(task, name)))
        return model

    def passes(self, parts: Sequence[Microbatch], idle_batch: Callable[[], Any]) -> Iterator[tuple[Microbatch, bool]]:
        """As many on every rank as on the one with most microbatches."""
        ranks = self.ranks
        count = ranks.largest(len(parts))
        for number in range(count):
            if number < len(parts):
                part = parts[number]
            else:
                batch = parts[0].batch if parts else idle_batch()
                part = Microbatch(
                    number=number * self.ranks.world_size + self.ranks.rank, batch=batch, weight=0, size=0
                )
            yield part, number == count - 1

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Add gradients over ranks in the step's last backward pass only; before it they stay whole here."""
        self._model.set_requires_gradient_sync(last)
        self._model.set_is_last_backward(last)
        return nullcontext()

    def sum_gradients(self) -> None:
        """The last backward pass has added and sharded them."""

    def full_state(self, model: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
        """Gather weight by weight into CPU memory, so that a device holds at most one whole weight more."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
        state = dict(get_model_state_dict(model, options=options))
        for name in frozen_names(model) if trained_only else ():
            state.pop(name, None)
        first: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in state:
                state[name] = state[first.setdefault(id(parameter), name)]
        return state


def _as_forward(model: nn.Module, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` with the outermost group's weights put together for the time of each call."""
    setattr(model, f"nexa_{name}", method)
    register_fsdp_forward_method(model, f"nexa_{name}")
    registered: Callable[..., Any] = getattr(model, f"nexa_{name}")
    return registered


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model: the members of its lists of modules that hold most parameters.

    A list inside a block is part of that block. Empty for a model without such a list.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    inner = {id(part) for outer in lists for member in outer for part in member.modules()}
    blocks = [member for item in lists if id(item) not in inner for member in item]
    return [block for block in blocks if any(True for _ in block.parameters())]
