"""Bytes that a forward pass keeps for the backward pass, by formula. No torch.

Counted tensor by tensor with `saved_tensors_hooks` on a llama of transformers 5: for each block and
token two residual inputs, the inputs of the linear layers, query, keys, values and output of the attention,
and four values of the feed-forward layer's width; norms keep two more where their weights are trained. That is what
the model's own operations keep; the kernels that `nexa_torch.probes` chooses on a CPU keep less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.estimate import ModelSizes

_FP32, _HALF = 4, 2
_ADAPTED_LAYERS = 7


def activation_bytes(recipe: Recipe, sizes: ModelSizes, tokens: int) -> int:
    """What blocks and final norm keep for `tokens` tokens, under the recipe's precision and checkpointing."""
    whole = _block_bytes(recipe, sizes)
    training = recipe.training
    final = _FP32 * 2 * sizes.width
    if not training.activation_checkpointing:
        return tokens * (sizes.layers * whole + final)
    recomputed = -(-sizes.layers // training.checkpoint_every_blocks)
    kept = sizes.width * _FP32
    if training.activation_checkpointing == "selective":
        kept += _product_bytes(recipe, sizes)
    # One recomputed block at a time has all its values.
    return tokens * ((sizes.layers - recomputed) * whole + recomputed * kept + whole + final)


def half_weight_bytes(recipe: Recipe, sizes: ModelSizes) -> int:
    """Copies of the blocks' weights that autocast makes for a forward pass and keeps for the backward pass."""
    if recipe.training.precision not in ("bf16", "fp16") or _is_quantized(recipe):
        return 0
    return _HALF * sizes.layers * sum(inputs * outputs for inputs, outputs in sizes.linear_layers())


def _block_bytes(recipe: Recipe, sizes: ModelSizes) -> int:
    """Bytes that one block keeps for one token."""
    width, queries = sizes.width, sizes.heads * sizes.head_width
    # A packed row's mask makes keys and values be repeated for every query head.
    keys = 2 * queries if recipe.data.packing else 2 * sizes.kv_heads * sizes.head_width
    norms = 0 if recipe.adapter is not None else 2 * width
    adapter = _ADAPTED_LAYERS * recipe.adapter.rank if recipe.adapter is not None else 0
    inner = 4 * sizes.feed_forward + adapter
    if recipe.training.precision in ("bf16", "fp16"):
        # Each linear layer casts its input for itself.
        return _FP32 * (2 * width + norms) + _HALF * (6 * width + 2 * queries + keys + inner)
    return _FP32 * (5 * width + norms + queries + keys + inner)


def _product_bytes(recipe: Recipe, sizes: ModelSizes) -> int:
    """Bytes of the results of one block's matrix products and attention, for one token."""
    outputs = sum(outputs for _, outputs in sizes.linear_layers()) + sizes.heads * sizes.head_width
    return outputs * (_HALF if recipe.training.precision in ("bf16", "fp16") else _FP32)


def _is_quantized(recipe: Recipe) -> bool:
    return recipe.adapter is not None and recipe.adapter.type == "qlora"
