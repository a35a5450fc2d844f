"""Documents of one packed row are computed as if each stood alone: losses and gradients, by architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nexa_torch.data.language import collate
from nexa_torch.data.packing import arrange, split_documents
from nexa_torch.data.rows import IGNORED, RowCounts, Rows
from nexa_torch.data.store import TokenArrays
from nexa_torch.models import LanguageModel, load_network, wrap
from nexa_torch.probes import attend_by_document
from nexa_torch.sources import ModelSource

LENGTHS = np.array([5, 11, 3, 8, 2, 16, 7, 20])
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "mistral": {**LLAMA_LIKE, "sliding_window": 6},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "eos_token_id": 1,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}


def _model(folder: Path, architecture: str) -> LanguageModel:
    torch.manual_seed(3)
    config = AutoConfig.for_model(architecture, vocab_size=60, **ARCHITECTURES[architecture])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    source = ModelSource(kind="folder", name=str(folder), location=str(folder))
    return wrap(load_network(source), source)


def _rows(*, packing: bool) -> Rows:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 60, size=int(LENGTHS.sum()))
    trained = generator.random(len(tokens)) < 0.7
    starts = np.cumsum(LENGTHS) - LENGTHS
    return Rows(
        source=TokenArrays(tokens, trained),
        layout=arrange(split_documents(starts, LENGTHS, 24), 24, packing=packing),
        counts=RowCounts(tokens=len(tokens), trained_tokens=int(trained.sum()), largest_token=59),
        row_length=24,
        pad_id=0,
    )


def _loss_and_gradients(model: LanguageModel, batch: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.network.zero_grad(set_to_none=True)
    loss = model.loss_sum(batch, scale=1.0, chunk=16)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.network.parameters() if p.grad is not None]


@pytest.mark.parametrize("by_document", [False, True], ids=["masked", "by document"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_documents_equal_documents_alone(architecture: str, by_document: bool, tmp_path: Path) -> None:
    model = _model(tmp_path, architecture)
    if by_document:
        assert attend_by_document(model)
    packed, alone = _rows(packing=True), _rows(packing=False)
    assert len(packed) < len(alone) == 8
    together = _loss_and_gradients(model, collate(packed.take(range(len(packed)))))
    apart = [_loss_and_gradients(model, collate(alone.take([i]))) for i in range(len(alone))]
    torch.testing.assert_close(together[0], sum(loss for loss, _ in apart), rtol=1e-5, atol=1e-5)
    for place, gradient in enumerate(together[1]):
        wanted = sum(gradients[place] for _, gradients in apart)
        torch.testing.assert_close(gradient, wanted, rtol=2e-4, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_document_of_a_row_keeps_its_own_loss(architecture: str, tmp_path: Path) -> None:
    model = _model(tmp_path, architecture)
    packed, alone = _rows(packing=True), _rows(packing=False)
    losses = [float(model.loss_sum(collate(alone.take([i])), scale=1.0, chunk=16)) for i in range(len(alone))]
    found = []
    for row in range(len(packed)):
        batch = packed.take([row])
        for number in range(int(batch.document.max()) + 1):
            tensors = collate(batch)
            other = torch.from_numpy(batch.document != number)
            tensors["labels"] = tensors["labels"].masked_fill(other, IGNORED)
            found.append(float(model.loss_sum(tensors, scale=1.0, chunk=16)))
    assert sorted(found) == pytest.approx(sorted(losses), rel=1e-4, abs=1e-4)
