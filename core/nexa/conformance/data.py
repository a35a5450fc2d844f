"""The kit's data and recipe: eight conversations whose rows are trained on all together in every step.

A step over all documents has the same mean loss in any order, so that no backend's way to shuffle shows. The
documents' lengths fill four rows of 64 tokens in pairs, without a gap: 42 + 22, 40 + 24, 36 + 28, 33 + 31.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexa.conformance.model import MAX_SEQ_LEN, write_model
from nexa.recipe.schema import Recipe

Conversation = Sequence[tuple[str, str]]

CONVERSATIONS: Sequence[Conversation] = (
    (("user", "A"), ("assistant", "B"), ("user", "Up"), ("assistant", "Down")),
    (("user", "Hi"), ("assistant", "Yo!")),
    (("user", "A colour?"), ("assistant", "Blue, or teal.")),
    (("user", "Sky"), ("assistant", "Blue")),
    (("system", "Brief!"), ("user", "2+2?"), ("assistant", "4")),
    (("user", "Count"), ("assistant", "1 2 34")),
    (("user", "Näher"), ("assistant", "Ja, näher")),
    (("user", "Rain or sun"), ("assistant", "Sun")),
)
"""Role and content of each turn. Lengths in tokens: see `LENGTHS`."""
LENGTHS = (42, 22, 40, 24, 36, 28, 33, 31)
PACKED_ROWS = 4
STEPS, SAVE_EVERY, WARMUP = 6, 3, 2
LR, WEIGHT_DECAY, BETAS, EPS, MAX_NORM, MIN_LR_RATIO = 0.01, 0.1, (0.9, 0.95), 1e-8, 1.0, 0.1


def write_recipe(folder: Path, overrides: Mapping[str, Any], *, language: bool) -> Recipe:
    """Write the kit's files into `folder` and return the recipe that every check starts from.

    language: train the kit's model on the conversations; without it the recipe asks for no more than a number
    of steps on rows with a `text`, and the model is named by the overrides. overrides: values by dotted key, on
    top; a first key that is no recipe section is a plugin's.
    """
    rows = folder / "rows.jsonl"
    rows.write_text("".join(map(_row if language else _text_row, CONVERSATIONS)), encoding="utf-8")
    values = {
        "method": "sft",
        "run.name": "conformance",
        "data.remote_uri": str(rows.absolute()),
        "training.max_steps": STEPS,
        "training.save_every_steps": SAVE_EVERY,
        "training.microbatch_size_per_gpu": len(CONVERSATIONS),
        "artifacts.store_uri": (folder / "artifacts").absolute().as_uri(),
        **(_language_values(folder) if language else {}),
        **overrides,
    }
    document: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = document
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return Recipe.from_document(document)


def _language_values(folder: Path) -> dict[str, Any]:
    """The model, and every number that the reference was computed with."""
    return {
        "model.name": str(write_model(folder / "model").absolute()),
        "model.max_seq_len": MAX_SEQ_LEN,
        "data.packing": False,
        "data.local_cache_root": str((folder / "cache").absolute()),
        "training.max_grad_norm": MAX_NORM,
        "training.seed": 7,
        "optimizer.name": "adamw",
        "optimizer.lr": LR,
        "optimizer.weight_decay": WEIGHT_DECAY,
        "optimizer.betas": list(BETAS),
        "optimizer.eps": EPS,
        "optimizer.scheduler": {"name": "cosine_warmup", "min_lr_ratio": MIN_LR_RATIO},
        "cluster.threads_per_process": 1,
    }


def _row(conversation: Conversation) -> str:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _text_row(conversation: Conversation) -> str:
    return json.dumps({"text": "\n".join(content for _, content in conversation)}, ensure_ascii=False) + "\n"
