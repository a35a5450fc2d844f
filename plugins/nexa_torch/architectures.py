"""The registry of architectures that a recipe builds from sizes; no torch, so that plans can count.

Every architecture is an ordinary transformers model class, so its checkpoints load in plain
`AutoModelForCausalLM.from_pretrained`. Input and output embeddings are tied: at the sizes people
train from scratch the vocabulary is a large share of the parameters, and tying halves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nexa.errors import UserError
from nexa.recipe.sections.model import ModelSection

DEFAULT_ROW_LENGTH = 2048
_REQUIRED_SIZES = ("d_model", "n_layers", "n_heads")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model family: how sizes become a transformers configuration.

    model_type: transformers' name of the configuration class. config: from a model section to the
    keyword arguments of that class, without the tokenizer's part (vocabulary, special tokens).
    """

    name: str
    model_type: str
    config: Callable[[ModelSection], dict[str, Any]]


def default_d_ff(d_model: int) -> int:
    """Width of a gated feed-forward layer: 8/3 of d_model, rounded up to a multiple of 64."""
    return -(-8 * d_model // 3 // 64) * 64


def _llama(model: ModelSection) -> dict[str, Any]:
    if not (model.d_model and model.n_layers and model.n_heads):
        raise UserError(f"architecture {model.name!r} needs {', '.join(f'model.{name}' for name in _REQUIRED_SIZES)}")
    return {
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff or default_d_ff(model.d_model),
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads or model.n_heads,
        "max_position_embeddings": model.max_seq_len or DEFAULT_ROW_LENGTH,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(name="llama", model_type="llama", config=_llama),
}


def size_problems(model: ModelSection) -> list[tuple[str, str]]:
    """What is wrong with an architecture's sizes beyond the schema's rules, as (dotted key, message) pairs."""
    missing = [name for name in _REQUIRED_SIZES if getattr(model, name) is None]
    if missing:
        return [(f"model.{name}", f"architecture {model.name!r} needs it") for name in missing]
    width = (model.d_model or 0) // (model.n_heads or 1)
    if width % 2:
        return [("model.n_heads", f"rotary positions need an even head width, not {width}")]
    return []
