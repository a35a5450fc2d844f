"""Recipe keys that mean nothing beside some others, each with the reason; shared by the backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nexa.recipe.schema import Recipe
from nexa_torch.architectures import ARCHITECTURES
from nexa_torch.sources import PACKAGE_SCHEME

_HUB_DATA = "hf:"


def _sizes(recipe: Recipe) -> str | None:
    return None if recipe.model.name in ARCHITECTURES else "an existing model brings its own sizes"


def _revision(recipe: Recipe) -> str | None:
    name = recipe.model.name
    if name in ARCHITECTURES or name.startswith(PACKAGE_SCHEME) or name.startswith(("/", ".", "~")):
        return "only hub models have revisions"
    return None


def _split(recipe: Recipe) -> str | None:
    return None if recipe.data.remote_uri.startswith(_HUB_DATA) else "only hub data sets have splits"


def _validation_split(recipe: Recipe) -> str | None:
    uri = recipe.data.validation.remote_uri or recipe.data.remote_uri
    return None if uri.startswith(_HUB_DATA) else "only hub data sets have splits"


def _sharded_only(recipe: Recipe) -> str | None:
    return None if recipe.distributed.strategy == "fsdp" else "only distributed.strategy=fsdp shards"


def _cpu_offload(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "fsdp" and not recipe.cluster.gpus_per_node:
        return "training on CPU has everything in CPU memory"
    return _sharded_only(recipe)


UNUSED_BY_STRATEGY: Mapping[str, Callable[[Recipe], str | None]] = {
    "distributed.reshard_after_forward": _sharded_only,
    "distributed.cpu_offload": _cpu_offload,
}
"""For each such key, why a recipe's processes have no use for it; None where they have."""


UNUSED_BY_SOURCE: Mapping[str, Callable[[Recipe], str | None]] = {
    "model.revision": _revision,
    **{f"model.{size}": _sizes for size in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")},
    "data.split": _split,
    "data.validation.split": _validation_split,
}
"""For each such key, why a recipe's model or data has no use for it; None where it has."""
