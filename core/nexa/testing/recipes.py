"""A recipe small enough to train in a second on any CPU, with data of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexa.recipe.schema import Recipe

_ROWS = [
    ("What is the capital of France?", "Paris."),
    ("What is two plus two?", "Four."),
    ("Name a colour.", "Blue."),
    ("Which animal barks?", "A dog."),
    ("What falls from clouds?", "Rain."),
    ("How many days has a week?", "Seven."),
    ("What do bees make?", "Honey."),
    ("Which star is nearest?", "The Sun."),
]
_CHAT_TEMPLATE = """\
{% for message in messages %}<|{{ message.role }}|>
{% if message.role == "assistant" %}{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{% else %}{{ message.content }}<|end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def tiny_recipe(folder: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Write data into `folder` and return a recipe that trains a two-layer model on it.

    Four optimizer steps, a checkpoint every two. `overrides` maps dotted keys to values
    ({"training.max_steps": 8, "echo.delay_seconds": 0.1}); a first key that is no recipe section is
    a plugin's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "method": "sft",
        "run": {"name": "tiny"},
        "model": {
            "name": "llama",
            "tokenizer": "bytes",
            "chat_template": str(_write(folder / "chat.jinja", _CHAT_TEMPLATE)),
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 2,
            "max_seq_len": 128,
        },
        "data": {"remote_uri": str(_write(folder / "data.jsonl", _jsonl()))},
        "training": {"max_steps": 4, "save_every_steps": 2, "microbatch_size_per_gpu": 2, "seed": 7},
        "cluster": {"threads_per_process": 1},
        "artifacts": {"store_uri": f"file://{folder.absolute()}/artifacts"},
    }
    options: dict[str, dict[str, Any]] = {}
    for key, value in (overrides or {}).items():
        section = key.partition(".")[0]
        _set(document if section in Recipe.model_fields else options, key, value)
    return Recipe.model_validate({**document, "plugin_options": options})


def _jsonl() -> str:
    """Rows enough for a few steps, each in the prompt and response form."""
    rows = [{"prompt": prompt, "response": response} for prompt, response in _ROWS * 8]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path.absolute()


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[last] = value
