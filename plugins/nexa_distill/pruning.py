"""A student made of some of a model's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from nexa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_blocks(total: int, count: int) -> list[int]:
    """Which `count` of `total` blocks stay, evenly spread, the first and last among them (one alone: the first).

    As DistilBERT's students are made (Sanh et al. 2019, arXiv 1910.01108). Raises UserError for more than there are.
    """
    if count > total:
        raise UserError(
            f"distill.student_layers is {count} and the model has {total} blocks",
            hint=f"set distill.student_layers={total} or less",
        )
    if count == 1:
        return [0]
    return [round(index * (total - 1) / (count - 1)) for index in range(count)]


def prune_blocks(network: PreTrainedModel, count: int) -> None:
    """Keep `count` of a network's blocks, in place. Raises UserError where its blocks can't be told."""
    config = network.config.get_text_config()
    total = int(getattr(config, "num_hidden_layers", 0))
    found = [
        (owner, name, child)
        for owner in network.base_model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total > 0
    ]
    if len(found) != 1:
        raise UserError(
            f"{type(network).__name__} has no single list of blocks to choose from",
            hint="leave distill.student_layers out",
        )
    owner, name, blocks = found[0]
    kept = kept_blocks(total, count)
    setattr(owner, name, nn.ModuleList(blocks[index] for index in kept))
    for number, block in enumerate(getattr(owner, name)):
        for module in block.modules():
            # Blocks know their number to find their place in a cache of keys and values.
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    config.num_hidden_layers = count
    kinds: Any = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[index] for index in kept]
