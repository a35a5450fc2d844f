"""What a run needs, by formula: parameters, memory by component, checkpoint size. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import Estimate
from nexa.errors import NexaError
from nexa_torch.activations import activation_bytes, half_weight_bytes
from nexa_torch.architectures import ARCHITECTURES, DEFAULT_ROW_LENGTH
from nexa_torch.data.gguf_header import read_gguf_header
from nexa_torch.optimizers import state_bytes
from nexa_torch.options import torch_options
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from nexa.backend import Resources
    from nexa.recipe.schema import Recipe
    from nexa.recipe.sections.model import ModelSection

_FP32 = 4
_BYTES_TOKENIZER_VOCABULARY = 259
_TOKENIZER_BYTES = 4 << 20
# Resident memory of an interpreter that has imported torch, transformers and peft, measured on Linux.
_LIBRARY_BYTES = 360_000_000
# bitsandbytes NF4: half a byte a weight, an 8-bit scale for 64 of them, an fp32 one for 256 of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# oneDNN lays weights out anew for each product; between activations of other sizes the freed copies leave gaps
# that little fits into. Measured with a 135M model: so much of the activations' size.
_ONEDNN_GAPS = 0.8


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The numbers of a llama-shaped model that formulas need. tied: output head = input embedding."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    tied: bool

    def linear_layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear layer of one block."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = [(self.width, queries), (self.width, keys), (self.width, keys), (queries, self.width)]
        return [*attention, *[(self.width, self.feed_forward)] * 2, (self.feed_forward, self.width)]

    @property
    def parameters(self) -> int:
        """Exact for the registry's architectures; an estimate for other families."""
        block = sum(inputs * outputs for inputs, outputs in self.linear_layers()) + 2 * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.width


def estimate(recipe: Recipe, resources: Resources) -> Estimate:
    """Return what a run is expected to need on each worker process; empty where nothing is known."""
    notes = ["formulas, not measurements"]
    try:
        sizes = model_sizes(recipe.model)
    except (NexaError, OSError, KeyError, ValueError) as error:
        return Estimate(total_steps=recipe.training.max_steps, notes=[f"model sizes unknown: {error}"])
    if sizes is None:
        return Estimate(
            total_steps=recipe.training.max_steps, notes=["model sizes unknown: a hub model is not in the local cache"]
        )
    trained = sizes.parameters
    total = sizes.parameters
    if recipe.adapter is not None:
        trained = adapter_parameters(recipe, sizes)
        total += trained
    state = round(state_bytes(recipe.optimizer) * trained)
    saved = trained * _FP32 + (state if recipe.checkpointing.save_optimizer else 0)
    tokens = microbatch_tokens(recipe)
    activations = activation_bytes(recipe, sizes, tokens)
    if recipe.training.max_steps is None:
        notes.append("the number of steps depends on the data; --dry-run counts it")
    held = {
        "weights": _weight_bytes(recipe, sizes, total),
        "gradients": trained * _FP32,
        "optimizer": 0 if recipe.optimizer.offload else state,
    }
    if recipe.distributed.strategy == "fsdp" and resources.world_size > 1:
        held = _sharded(recipe, sizes, held, resources.world_size)
    if recipe.checkpointing.async_save and not recipe.cluster.gpus_per_node:
        held["copy being saved"] = saved
    return Estimate(
        parameters=total,
        trainable_parameters=trained,
        memory_bytes={
            "libraries": _LIBRARY_BYTES,
            **held,
            "activations": activations // sizes.layers if recipe.training.activation_offload else activations,
            "matmul": _matmul_bytes(recipe, resources, activations),
            "logits": _logit_bytes(recipe, sizes),
        },
        checkpoint_bytes=saved + _TOKENIZER_BYTES,
        total_steps=recipe.training.max_steps,
        notes=notes,
    )


def _sharded(recipe: Recipe, sizes: ModelSizes, held: dict[str, int], processes: int) -> dict[str, int]:
    """What each process holds of a sharded model, and the weights put together at the same time.

    Those are the outermost group's (embedding, head, final norm) and of the blocks two, the one in use
    and the next, or all where they stay after the forward pass.
    """
    outermost = sizes.vocabulary * sizes.width * (1 if sizes.tied else 2) + sizes.width
    block = (sizes.parameters - outermost) // sizes.layers
    together = min(2, sizes.layers) if recipe.distributed.reshard_after_forward else sizes.layers
    whole = (outermost + together * block) * (_FP32 if recipe.training.precision in ("fp32", "tf32") else 2)
    if recipe.distributed.cpu_offload and recipe.cluster.gpus_per_node:
        return {"gathered weights": whole}
    return {**{name: -(-size // processes) for name, size in held.items()}, "gathered weights": whole}


def adapter_parameters(recipe: Recipe, sizes: ModelSizes) -> int:
    """Parameters of a LoRA adapter: rank × (inputs + outputs) of each layer it is put on, DoRA's lengths besides."""
    assert recipe.adapter is not None
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    targets = recipe.adapter.target_modules
    layers = [
        shape
        for name, shape in zip(names, sizes.linear_layers(), strict=True)
        if targets == "all-linear" or name in targets
    ]
    lengths = sum(outputs for _, outputs in layers) if recipe.adapter.use_dora else 0
    return sizes.layers * (recipe.adapter.rank * sum(inputs + outputs for inputs, outputs in layers) + lengths)


def model_sizes(model: ModelSection) -> ModelSizes | None:
    """Sizes of a recipe's model; None for a hub model that is not on this machine.

    Raises UserError where the model does not exist, KeyError or ValueError where its configuration is
    not that of a llama-shaped model.
    """
    source = resolve_source(model.name)
    if source.kind == "architecture":
        config = {**ARCHITECTURES[model.name].config(model), "vocab_size": _vocabulary(model)}
        return _from_config(config)
    if source.kind == "gguf":
        return _from_gguf(source)
    folder = Path(source.location) if source.kind == "folder" else _hub_folder(source.location, model.revision)
    return None if folder is None else _from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _from_config(config: dict[str, Any]) -> ModelSizes:
    config = {**config, **(config.get("text_config") or {})}
    heads = config["num_attention_heads"]
    return ModelSizes(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward=config["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _from_gguf(source: ModelSource) -> ModelSizes:
    assert source.path is not None
    header = read_gguf_header(source.path)
    family = header.values["general.architecture"]

    def number(key: str) -> int:
        return int(str(header.values[f"{family}.{key}"]))

    heads, width = number("attention.head_count"), number("embedding_length")
    key_length = header.values.get(f"{family}.attention.key_length")
    return ModelSizes(
        vocabulary=header.array_lengths["tokenizer.ggml.tokens"],
        width=width,
        layers=number("block_count"),
        heads=heads,
        kv_heads=number("attention.head_count_kv"),
        head_width=int(str(key_length)) if key_length else width // heads,
        feed_forward=number("feed_forward_length"),
        tied="output.weight" not in header.tensors,
    )


def _vocabulary(model: ModelSection) -> int:
    """Tokens of the tokenizer that an architecture is built for. Raises ValueError when it can't be told."""
    name = model.tokenizer or ""
    if name == "bytes":
        return _BYTES_TOKENIZER_VOCABULARY
    source = resolve_source(name) if name.endswith(".gguf") else None
    if source is not None:
        return _from_gguf(source).vocabulary
    folder = Path(name).expanduser() if Path(name).expanduser().is_dir() else _hub_folder(name, None)
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise ValueError(f"the tokenizer {name!r} is not on this machine")
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["id"] for token in document.get("added_tokens", [])}
    vocabulary = document["model"]["vocab"]
    ids = set(vocabulary.values()) if isinstance(vocabulary, dict) else set(range(len(vocabulary)))
    return max(ids | added) + 1


def _hub_folder(name: str, revision: str | None) -> Path | None:
    """Folder of a hub model or tokenizer in the local cache, None when it is not there."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def microbatch_tokens(recipe: Recipe) -> int:
    return recipe.training.microbatch_size_per_gpu * (recipe.model.max_seq_len or DEFAULT_ROW_LENGTH)


def _weight_bytes(recipe: Recipe, sizes: ModelSizes, total: int) -> int:
    """Weights in fp32, the blocks' linear layers in 4 bits for qlora, and the copies that autocast makes."""
    bytes_ = total * _FP32 + half_weight_bytes(recipe, sizes)
    if recipe.adapter is not None and recipe.adapter.type == "qlora":
        linear = sizes.layers * sum(inputs * outputs for inputs, outputs in sizes.linear_layers())
        bytes_ -= round(linear * (_FP32 - _NF4_BYTES))
    return bytes_


def _matmul_bytes(recipe: Recipe, resources: Resources, activations: int) -> int:
    """What oneDNN's products leave unusable, where it may be chosen for them."""
    native = torch_options(recipe).cpu_matmul == "native" or recipe.training.precision != "fp32"
    return 0 if native or resources.gpus_per_node else round(_ONEDNN_GAPS * activations)


def _logit_bytes(recipe: Recipe, sizes: ModelSizes) -> int:
    """Logits of one chunk, which become their gradient; the head's own gradient counts with the gradients."""
    rows = min(torch_options(recipe).loss_chunk, microbatch_tokens(recipe))
    half = recipe.training.precision in ("bf16", "fp16")
    return rows * sizes.vocabulary * (_FP32 + (2 if half else 0))
