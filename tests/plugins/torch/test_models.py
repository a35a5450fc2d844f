"""Probes that look at a model before it is trained, and kernels chosen by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nexa.errors import UserError
from nexa_torch.kernels import matmul as kernels
from nexa_torch.kernels.matmul import LARGEST_ERROR, choose_cpu_matmul
from nexa_torch.models import LanguageModel, load_network, restore_weights
from nexa_torch.probes import documents_stay_apart
from nexa_torch.sources import ModelSource

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


def _saved(folder: Path, model_type: str, **config: Any) -> ModelSource:
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **config}))
    network.save_pretrained(folder)
    return ModelSource(kind="folder", name=str(folder), location=str(folder))


def _wrapped(source: ModelSource) -> LanguageModel:
    from nexa_torch.models import wrap

    return wrap(load_network(source), source)


@pytest.mark.parametrize(
    ("model_type", "config", "fused"),
    [
        ("llama", {}, True),
        ("qwen2", {"tie_word_embeddings": True}, True),
        ("mistral", {"sliding_window": 4}, True),
        ("granite", {"logits_scaling": 4.0}, False),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 1.0}, False),
    ],
)
def test_head_is_fused_only_where_that_is_the_same(
    tmp_path: Path, model_type: str, config: dict[str, Any], fused: bool
) -> None:
    model = _wrapped(_saved(tmp_path, model_type, **config))
    assert model.fused_head is fused
    assert documents_stay_apart(model)
    tokens = torch.arange(1, 9).unsqueeze(0)
    batch = {"input_ids": tokens, "labels": tokens.roll(-1, 1), "positions": torch.arange(8).unsqueeze(0)}
    logits = model.network(tokens).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(model.loss_sum(batch, scale=1.0, chunk=16), expected, rtol=1e-4, atol=1e-4)


def test_recurrent_models_can_not_be_packed(tmp_path: Path) -> None:
    config = {"state_size": 4, "intermediate_size": 64, "time_step_rank": 2}
    model = _wrapped(_saved(tmp_path, "mamba", **config))
    assert not documents_stay_apart(model)


def test_remote_code_never_runs(tmp_path: Path) -> None:
    source = _saved(tmp_path, "llama")
    canary = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: ...\nclass Config: ...\n")
    config = (tmp_path / "config.json").read_text()
    auto_map = '"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},'
    (tmp_path / "config.json").write_text(config.replace("{", "{" + auto_map, 1).replace('"llama"', '"evil"'))
    with pytest.raises(UserError):
        load_network(source)
    assert not canary.exists()


def test_restored_weights_are_the_saved_ones(tmp_path: Path) -> None:
    first, second = _wrapped(_saved(tmp_path / "a", "llama")), _wrapped(_saved(tmp_path / "b", "llama"))
    restore_weights(second, tmp_path / "a")
    pairs = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture
def restored_switch() -> Any:
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    yield
    switch.fp32_precision = before


@pytest.mark.usefixtures("restored_switch")
def test_chosen_matmul_is_accurate() -> None:
    choice = choose_cpu_matmul("onednn", [(256, 64, 128)])
    left, right = torch.randn(200, 300), torch.randn(300, 100)
    exact = left.double() @ right.double()
    assert float(((left @ right).double() - exact).norm() / exact.norm()) < LARGEST_ERROR
    assert choice.relative_error is not None


@pytest.mark.usefixtures("restored_switch")
def test_lossy_products_are_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGEST_ERROR", 0.0)
    choice = choose_cpu_matmul("onednn", [(256, 64, 128)])
    assert choice.library == "native"
    assert "relative error" in choice.reason
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"
