"""The kit's reference: what a plain implementation of the same training finds, and how far a backend may be from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOLERANCES: Mapping[str, float] = {"loss": 1e-5, "grad-norm": 1e-4, "lr": 1e-6, "curve": 1e-4, "invariance": 1e-4}
"""Largest relative error of each figure in fp32. Rounding grows from step to step, since AdamW divides by it."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """documents: token ids of each conversation, and which of them carry loss. loss (nats a trained token),
    grad_norm (L2, before clipping): of each optimizer step, from the first, without a warm-up. lr: with one."""

    documents: Sequence[tuple[tuple[int, ...], tuple[bool, ...]]]
    loss: Sequence[float]
    grad_norm: Sequence[float]
    lr: Sequence[float]


@cache
def load_reference() -> Reference:
    """The reference that stands beside this module; `tests/core/conformance/make_reference.py` writes it."""
    document = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
    return Reference(
        documents=[(tuple(row["tokens"]), tuple(map(bool, row["trained"]))) for row in document["documents"]],
        loss=document["loss"],
        grad_norm=document["grad_norm"],
        lr=document["lr"],
    )
