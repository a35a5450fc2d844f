"""Teachers small enough for tests: byte-level llamas with random weights, large enough to be sure of something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nexa.recipe.sections.model import ModelSection
from nexa_torch.data.byte_tokenizer import byte_tokenizer
from nexa_torch.models import load_model, save_model


def make_teacher(folder: Path, *, seed: int = 3, layers: int = 2, width: int = 32, spread: float = 8.0) -> Path:
    """Save a teacher into `folder`. spread: factor on the output head, so that predictions are not flat."""
    section = ModelSection(name="llama", tokenizer="bytes", d_model=width, n_layers=layers, n_heads=2, max_seq_len=256)
    tokenizer = byte_tokenizer()
    model = load_model(section, tokenizer, row_length=256, seed=seed)
    with torch.no_grad():
        model.network.get_output_embeddings().weight.mul_(spread)
    state: dict[str, Any] = dict(model.network.state_dict())
    save_model(model, tokenizer, folder, state)
    return folder
