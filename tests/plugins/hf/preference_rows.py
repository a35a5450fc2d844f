"""Small data and recipes of the methods on preferences and rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LETTER = ".*[a-m].*"
ROLLOUTS: dict[str, Any] = {
    "rewards": [{"name": "format", "options": {"pattern": LETTER}}],
    **{"generations": 4, "max_completion_length": 6},
}
"""A reward that about every other answer of a random model earns."""


def pairs(count: int = 6) -> list[dict[str, Any]]:
    """Pairs whose better answer is brief, each with a number for the reward `exact-answer`."""
    return [
        {"prompt": f"Colour {i}?", "chosen": "Blue" + "!" * (i % 3), "rejected": f"Seven {i}.", "answer": i}
        for i in range(count)
    ]


def preference_recipe(
    folder: Path, method: str, sections: Mapping[str, Any] | None = None, *, rows: int = 6, **training: Any
) -> dict[str, Any]:
    """A recipe that trains a tiny model on pairs; `sections` stand over it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs(rows)))
    sizes = {"microbatch_size_per_gpu": 2, "grad_accumulation_steps": 2 if method == "grpo" else 1}
    return {
        "method": method,
        "backend": "hf",
        "model": {
            **{"name": "llama", "d_model": 32, "n_layers": 2, "n_heads": 2},
            **{"tokenizer": "bytes", "max_seq_len": 96},
        },
        "data": {"remote_uri": str(path)},
        "training": {"seed": 7, **sizes, **training},
        "optimizer": {"lr": 1e-3},
        "cluster": {"threads_per_process": 1},
        **(sections or {}),
    }
