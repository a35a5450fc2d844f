"""Kernels of packed rows and norms: the same numbers as the model's own, and out of the way where they don't apply."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nexa_torch.kernels import attention, norms
from nexa_torch.memory import recompute_activations
from nexa_torch.models import LanguageModel, wrap
from nexa_torch.probes import attend_by_document, choose_kernels
from nexa_torch.sources import ModelSource

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LENGTHS = ((7, 1, 12), (20,), (3, 9, 8))
"""Documents of each row; the last one of a row may be padding's."""


def _model(architecture: str = "llama", **config: Any) -> LanguageModel:
    torch.manual_seed(5)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**SIZES, **config}))
    model = wrap(network, ModelSource(kind="folder", name="tiny", location=""))
    model.network.train()
    return model


def _batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 50, (3, 21), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "positions": positions}


def _gradients(model: LanguageModel, *, bf16: bool = False) -> list[torch.Tensor]:
    model.network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model.loss_sum(_batch(), scale=1.0, chunk=16)
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.network.parameters())]


def _chosen(**config: Any) -> LanguageModel:
    model = _model(**config)
    assert choose_kernels(model, packing=True) == "attention by document, 5 norms fused"
    model.network.train()
    return model


def test_lengths_of_documents_come_from_their_positions() -> None:
    assert attention.document_lengths(_batch()["positions"]) == [n for row in LENGTHS for n in row]
    shifted = torch.tensor([[4, 5, 6, 2, 3]])
    assert attention.document_lengths(shifted) == [3, 2]


@pytest.mark.parametrize("recomputed", [None, "full", "selective"])
def test_training_gives_the_gradients_of_the_models_own_kernels(recomputed: str | None) -> None:
    plain, fast = _gradients(_model()), _chosen()
    if recomputed:
        recompute_activations(fast.network, selective=recomputed == "selective")
    torch.testing.assert_close(_gradients(fast), plain, rtol=1e-4, atol=1e-5)


def test_under_autocast_the_loss_is_that_of_the_models_own_kernels() -> None:
    plain, fast = _gradients(_model(), bf16=True), _gradients(_chosen(), bf16=True)
    assert float(fast[0]) == pytest.approx(float(plain[0]), rel=2e-3)
    for ours, own in zip(fast[1:], plain[1:], strict=True):
        assert float((ours - own).norm() / own.norm()) < 0.03


def test_attention_with_dropout_drops_by_the_seed_and_only_in_training() -> None:
    model = _chosen(attention_dropout=0.5)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(_gradients(model)[0]))
    assert losses[0] == losses[1] != losses[2]
    model.network.eval()
    plain = _model(attention_dropout=0.5)
    plain.network.eval()
    torch.testing.assert_close(_gradients(model)[0], _gradients(plain)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "by_document"), [(12, False), (20, True)])
def test_a_layer_that_sees_less_than_a_document_gets_its_mask(
    window: int, by_document: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _gradients(_model("mistral", sliding_window=window))
    model = _model("mistral", sliding_window=window)
    assert attend_by_document(model)
    model.network.train()
    given: list[torch.Tensor | None] = []
    model.network.model.layers[0].register_forward_pre_hook(
        lambda _module, _args, options: given.append(options["attention_mask"]), with_kwargs=True
    )
    torch.testing.assert_close(_gradients(model), plain, rtol=1e-4, atol=1e-5)
    assert given[0] is not None
    assert (given[0].dtype == torch.int64) is by_document


def test_attention_chosen_later_ends_the_one_by_document() -> None:
    model = _chosen()
    model.network.set_attn_implementation("eager")
    torch.testing.assert_close(_gradients(model), _gradients(_model()), rtol=1e-4, atol=1e-5)


def test_what_is_saved_knows_nothing_of_kernels(tmp_path: Path) -> None:
    model = _chosen()
    model.network.save_pretrained(tmp_path)
    assert attention.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    tokens = _batch()["input_ids"]
    torch.testing.assert_close(loaded(tokens).logits, model.network.eval()(tokens).logits, rtol=1e-4, atol=1e-5)
    ours = model.network.generate(tokens[:1], max_new_tokens=4, do_sample=False)
    assert torch.equal(ours, loaded.generate(tokens[:1], max_new_tokens=4, do_sample=False))


def _norm(network: PreTrainedModel) -> Any:
    return next(module for module in network.modules() if type(module).__name__.endswith("RMSNorm"))


def test_the_gradient_of_a_fused_norm_is_its_derivative() -> None:
    norm = _norm(_model().network).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
    assert norms.fuse(norm) == 1
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(norm, {"weight": weight}, x), (x, norm.weight)
    )
    norm.weight.requires_grad_(False)
    assert torch.autograd.gradcheck(norm, (x,))


def test_norms_of_another_formula_stay_as_they_are() -> None:
    assert norms.fuse(_model("gemma").network) == 0
    assert norms.fuse(nn.LayerNorm(8)) == 0


def test_a_fused_norm_is_its_own_in_half_precision_and_in_a_copy() -> None:
    norm = _norm(_model().network)
    own = copy.deepcopy(norm)
    norms.fuse(norm)
    half = torch.randn(4, 32).bfloat16()
    assert torch.equal(norm(half), own(half))
    twin = copy.deepcopy(norm)
    with torch.no_grad():
        twin.weight.fill_(3.0)
    x = torch.randn(4, 32)
    torch.testing.assert_close(twin(x), 3.0 * norm(x))
