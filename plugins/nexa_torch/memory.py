"""Less memory for more time: recomputed activations, and activations or optimizer state kept on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
)
_COSTLY = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", *_ATTENTION)
    if hasattr(torch.ops.aten, name)
)
"""Operations whose results selective recomputation keeps: they cost arithmetic; all others cost memory traffic."""
_SMALLEST_OFFLOADED = 1 << 16


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


def recompute_activations(network: PreTrainedModel, *, selective: bool = False, every: int = 1) -> None:
    """Keep what blocks start from and compute the rest again in the backward pass.

    selective: keep the results of matrix products and attention too. every: do so for every so
    many-th block only. Gradients are those of the whole, to the last bit on CPU.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    # Transformers before 5.20 know this under its older name alone.
    enable = getattr(network, "activation_checkpointing_enable", None)
    (enable or network.gradient_checkpointing_enable)(options)
    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    for number, block in enumerate(blocks):
        block.gradient_checkpointing = number % every == 0


def offloaded_activations(model: nn.Module, *, offload: bool) -> AbstractContextManager[Any]:
    """Context of a forward pass whose saved tensors wait in pinned host memory for the backward pass.

    Weights and small tensors stay where they are. Without `offload` a context that does nothing.
    """
    if not offload:
        return nullcontext()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
        small = tensor.numel() * tensor.element_size() < _SMALLEST_OFFLOADED
        if small or tensor.untyped_storage().data_ptr() in weights:
            return tensor.device, tensor
        pinned = tensor.device.type == "cuda"
        host = torch.empty(tensor.size(), dtype=tensor.dtype, layout=tensor.layout, pin_memory=pinned)
        return tensor.device, host.copy_(tensor, non_blocking=pinned)

    def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
        device, tensor = packed
        return tensor.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def keep_state_on_host(optimizer: Optimizer) -> None:
    """Make every step of `optimizer` happen in host memory, where its state then stays.

    Around a step weights and gradients visit the host, and the new weights go back; between steps the
    device holds no optimizer state at all.
    """
    devices: dict[nn.Parameter, Tensor] = {}

    def before(_optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in _trained(optimizer):
            devices[parameter] = parameter.data
            gradient = parameter.grad
            assert gradient is not None
            parameter.grad = None
            parameter.data = parameter.data.cpu()
            parameter.grad = gradient.cpu()
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor):
                    state[key] = value.cpu()

    def after(_optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, place in devices.items():
            place.copy_(parameter.data)
            parameter.grad = None
            parameter.data = place
        devices.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _trained(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)
