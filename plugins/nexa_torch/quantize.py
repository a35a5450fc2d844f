"""Base weights in 4-bit NF4 for QLoRA (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def quantize_linear_layers(network: PreTrainedModel, precision: str) -> None:
    """Replace every linear layer but the output head by its 4-bit form, in place.

    Blocks of 64 weights share a scale and the scales are quantised again, about 4.13 bits a weight in
    all. Products are computed in fp32, or in the half precision that `precision` names. The
    full-precision weights are dropped layer by layer.
    """
    head = network.get_output_embeddings()
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                setattr(module, name, _quantized(layer, _COMPUTE.get(precision, torch.float32)))
    # PEFT looks here to choose adapters that work on 4-bit layers.
    network.is_loaded_in_4bit = True


def _quantized(layer: nn.Linear, compute_dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        small: Any = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute_dtype,
            quant_type="nf4",
            compress_statistics=True,
        )
    weight = Params4bit(
        layer.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
    )
    small.weight = weight.to(layer.weight.device)
    small.bias = layer.bias
    module: nn.Module = small
    return module
