"""The recipe sections `model` and `adapter`: what is trained, and which of its weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.recipe.sections.base import PositiveInt, Section


def looks_existing(name: str) -> bool:
    """Whether a model name can only mean an existing model: a path, a hub id, a GGUF file or a URI."""
    return any(mark in name for mark in "/\\:~") or name.lower().endswith(".gguf")


class ModelSection(Section):
    """What is trained: a known architecture by its sizes, or an existing model."""

    name: str
    """Architecture ("llama"; built from the sizes below with random weights), or an existing model:
    a folder, a hub id ("org/model"), a GGUF file, or `pkg:PACKAGE/FILE` shipped in a Python package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. Default: the hub's main branch."""
    tokenizer: str | None = None
    """Folder, hub id, GGUF file, `pkg:PACKAGE/FILE`, or "bytes" (one token a byte). Default: the model's own."""
    chat_template: str | None = None
    """Jinja file that replaces the tokenizer's chat template. Default: the tokenizer's own."""
    d_model: PositiveInt | None = None
    """Width of the residual stream. Only for an architecture."""
    n_layers: PositiveInt | None = None
    """Number of transformer blocks. Only for an architecture."""
    n_heads: PositiveInt | None = None
    """Number of attention heads; divides d_model. Only for an architecture."""
    n_kv_heads: PositiveInt | None = None
    """Number of key/value heads; divides n_heads. Default: n_heads. Only for an architecture."""
    d_ff: PositiveInt | None = None
    """Width of the feed-forward layer. Default: 8/3 d_model rounded up to 64. Only for an architecture."""
    max_seq_len: PositiveInt | None = None
    """Tokens a training row holds. Default: what the model allows, at most 2048."""

    @property
    def from_scratch(self) -> bool:
        """Whether the model is an architecture built from sizes, not an existing model."""
        return self.d_model is not None

    @model_validator(mode="after")
    def _sizes_belong_together(self) -> Self:
        sizes = {name: getattr(self, name) for name in ("d_model", "n_layers", "n_heads")}
        given = [name for name, value in sizes.items() if value is not None]
        optional = [name for name in ("n_kv_heads", "d_ff") if getattr(self, name) is not None]
        if not given and not optional:
            return self
        if looks_existing(self.name):
            raise ValueError(
                f"{self.name!r} is an existing model and brings its own sizes; "
                f"leave {', '.join(given + optional)} out, or name an architecture such as llama"
            )
        if missing := [name for name in sizes if name not in given]:
            raise ValueError(f"an architecture needs {', '.join(sizes)}; not given: {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model and self.n_heads and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} does not divide by n_heads {self.n_heads}")
        if self.n_heads and self.n_kv_heads and self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide by n_kv_heads {self.n_kv_heads}")
        return self


class AdapterSection(Section):
    """Train a small adapter instead of the whole model."""

    type: Literal["lora", "qlora"] = "lora"
    """lora, or qlora (base weights in 4-bit NF4, by bitsandbytes: an eighth of the memory, slower steps)."""
    use_dora: bool = False
    """DoRA: train the length of each weight row besides the low-rank update of its direction."""
    use_rslora: bool = False
    """rsLoRA: scale the update by alpha ÷ √rank instead of alpha ÷ rank, so that high ranks learn as fast."""
    rank: PositiveInt = 16
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha ÷ rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter; all-linear is every linear layer but the output head."""
