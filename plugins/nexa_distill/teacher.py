"""The teacher: which model it is, whether it fits into memory and to the student's tokens, and what it predicts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nexa import units
from nexa.errors import UserError
from nexa.recipe.sections.model import ModelSection
from nexa.worker.meters import available_memory
from nexa_torch.data.hashes import HashMemory
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.estimate import model_sizes
from nexa_torch.models import LanguageModel, load_network, wrap
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe

_BYTES = {"fp32": 4, "bf16": 2}
_LIBRARY_BYTES = 500_000_000
"""Resident memory of an interpreter with torch and transformers, and of one pass of a small model."""


@dataclass(frozen=True, kw_only=True)
class TeacherName:
    """Which model teaches, and in which arithmetic."""

    name: str
    revision: str | None
    precision: str

    @classmethod
    def of(cls, recipe: Recipe) -> TeacherName:
        """The teacher of a recipe: `distill.teacher`, else the recipe's model."""
        distill = recipe.distill
        own = distill.teacher is None
        return cls(
            name=recipe.model.name if own else str(distill.teacher),
            revision=recipe.model.revision if own else distill.teacher_revision,
            precision=distill.teacher_precision,
        )

    @property
    def section(self) -> ModelSection:
        """The teacher as a recipe's `model`."""
        return ModelSection(name=self.name, revision=self.revision)

    def source(self) -> ModelSource:
        """Where it is. Raises UserError for what is no trained model."""
        source = resolve_source(self.name)
        if source.kind == "architecture":
            raise UserError(
                f"distill.teacher {self.name!r} is an architecture with random weights, which teach nothing",
                hint="set distill.teacher to a folder, a hub id, a GGUF file or pkg:PACKAGE/FILE",
            )
        return source

    def sha256(self, memory: HashMemory) -> str:
        """SHA-256 in hex over the weights and configuration of a teacher on this machine, or over its hub id."""
        source = self.source()
        digest = hashlib.sha256()
        for path in _files(source):
            digest.update(f"{path.name} {memory.of_file(path)}\n".encode())
        if source.kind == "hub":
            digest.update(f"hub {self.name} {self.revision}\n".encode())
        return digest.hexdigest()

    def weight_bytes(self) -> int | None:
        """Memory of its weights, None where its size is not known before it is loaded."""
        try:
            sizes = model_sizes(self.section)
        except (KeyError, ValueError, OSError):
            sizes = None
        if sizes is not None:
            return sizes.parameters * _BYTES[self.precision]
        stored = sum(path.stat().st_size for path in _files(self.source()) if path.suffix == ".safetensors")
        return stored or None


def _files(source: ModelSource) -> list[Path]:
    path = source.path
    if path is None:
        return []
    if path.is_file():
        return [path]
    return sorted(found for pattern in ("*.safetensors", "config.json") for found in path.glob(pattern))


def processes_that_fit(teacher: TeacherName, wanted: int, *, available: int | None = None) -> int:
    """How many of `wanted` processes can hold the teacher in CPU memory at once, at least 1.

    available: bytes, default what the machine has. Raises UserError where not even one can.
    """
    available = available_memory() if available is None else available
    weights = teacher.weight_bytes()
    if available is None or weights is None:
        return wanted
    each = weights + _LIBRARY_BYTES
    if each > available:
        smaller = ", or set distill.teacher_precision=bf16" if teacher.precision == "fp32" else ""
        raise UserError(
            f"teacher {teacher.name} needs about {units.size(each)} of memory and {units.size(available)} are "
            "available",
            hint=f"use a larger machine or a smaller teacher{smaller}",
        )
    return max(1, min(wanted, available // each))


def require_same_tokens(teacher: TeacherName, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where the teacher's tokens are not the student's, naming the first that differs."""
    own = load_tokenizer(teacher.section).get_vocab()
    other = tokenizer.get_vocab()
    if own == other:
        return
    if len(own) != len(other):
        reason = f"the teacher has {len(own):,} tokens, the student {len(other):,}"
    else:
        token = next(token for token in own if own[token] != other.get(token))
        place = f"token {other[token]}" if token in other else "no token"
        reason = f"{token!r} is the teacher's token {own[token]} and the student's {place}"
    raise UserError(
        f"teacher {teacher.name} and student have different tokenizers: {reason}",
        hint="give both one tokenizer (model.tokenizer), or set distill.mode=online and distill.cross_tokenizer=uld",
    )


def load_teacher(teacher: TeacherName, device: torch.device | str = "cpu") -> LanguageModel:
    """The teacher, ready to predict. Raises UserError where it can't be loaded."""
    network = load_network(teacher.source(), revision=teacher.revision)
    model = wrap(network, teacher.source())
    if teacher.precision == "bf16":
        network.to(torch.bfloat16)
    network.to(device).eval().requires_grad_(False)
    return model


@torch.no_grad()
def predict(model: LanguageModel, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits in fp32 at some positions, [positions, vocabulary].

    input_ids: int64 [rows, width]; rows, columns: int64, the positions.
    """
    if model.fused_head:
        hidden = model.hidden_states(input_ids, None)[rows, columns]
        head: Any = model.network.get_output_embeddings()
        return torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    return model.network(input_ids=input_ids, use_cache=False).logits[rows, columns].float()
