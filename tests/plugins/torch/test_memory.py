"""Ways to save memory change nothing of what is computed, and do save memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Finished, Run, chat_rows, tiny_recipe
from safetensors.torch import load_file
from torch import nn

from nexa.recipe.sections.model import AdapterSection, ModelSection
from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.compiling import compile_blocks
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.memory import keep_state_on_host, offloaded_activations, recompute_activations
from nexa_torch.models import LanguageModel, apply_lora, load_model
from nexa_torch.optimizers import OPTIMIZERS, build_optimizer
from nexa_torch.quantize import quantize_linear_layers

ONE_THREAD = {"cluster": {"threads_per_process": 1}, "torch": {"cpu_matmul": "native"}}
LLAMA = ModelSection(name="llama", tokenizer="bytes", d_model=64, n_layers=4, n_heads=4)
Train = Callable[..., Finished]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train the tiny recipe, with sections merged over it, in one attempt."""
    rows = chat_rows(tmp_path)

    def run(name: str, **sections: Any) -> Finished:
        return Run(tmp_path / name, tiny_recipe(rows, **{**ONE_THREAD, **sections})).attempt()

    return run


def _weights(run: Finished) -> Mapping[str, torch.Tensor]:
    assert run.checkpoint is not None
    return load_file(next(run.checkpoint.glob("*model.safetensors")))


@pytest.mark.parametrize("method", ["sft", "pretrain"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_changes_no_bit(train: Train, method: str, precision: str) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"activation_checkpointing": True},
        {"activation_checkpointing": "selective"},
        {"activation_checkpointing": True, "checkpoint_every_blocks": 2},
    ]
    data = {"train_on": "all"} if method == "pretrain" else {}
    plain, *others = (
        train(f"{i}", method=method, data=data, training={"max_steps": 3, "precision": precision, **values})
        for i, values in enumerate(settings)
    )
    for other in others:
        assert other.series("loss") == plain.series("loss")
        torch.testing.assert_close(_weights(other), _weights(plain), rtol=0, atol=0)


def _network() -> LanguageModel:
    model = load_model(LLAMA, load_tokenizer(LLAMA), row_length=64, seed=0)
    model.network.train()
    return model


def _saved_bytes(model: LanguageModel) -> int:
    """Bytes that one forward pass keeps for the backward pass, weights not counted."""
    weights = {parameter.data_ptr() for parameter in model.network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.hidden_states(torch.arange(64).remainder(200).unsqueeze(0), None)
    states.sum().backward()
    return sum(saved.values())


def test_recomputing_saves_memory() -> None:
    plain, every, full = _network(), _network(), _network()
    recompute_activations(every.network, every=2)
    recompute_activations(full.network)
    sizes = [_saved_bytes(model) for model in (full, every, plain)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * sizes[2]


def test_selective_keeps_products_only() -> None:
    """Between nothing and all: the products of the first forward pass are not computed again."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        products = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return func(*args, **(kwargs or {}))

    def products(**options: Any) -> int:
        model = _network()
        if options:
            recompute_activations(model.network, **options)
        with Count() as count:
            model.hidden_states(torch.arange(64).remainder(200).unsqueeze(0), None).sum().backward()
        return count.products

    plain = products()
    assert products(selective=True) == plain
    assert products(selective=False) > plain


def test_offloaded_activations_give_the_same_gradients() -> None:
    def gradients(offload: bool) -> list[torch.Tensor]:
        model = _network()
        with offloaded_activations(model.network, offload=offload):
            states = model.hidden_states(torch.arange(512).remainder(200).unsqueeze(0), None)
        states.square().sum().backward()
        return [parameter.grad for parameter in model.network.parameters() if parameter.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_on_the_host_are_the_same(name: str) -> None:
    def train(offload: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
        places = [parameter.data_ptr() for parameter in model.parameters()]
        optimizer = build_optimizer(OptimizerSection(name=name, lr=0.01), model)
        if offload:
            keep_state_on_host(optimizer)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        assert [parameter.data_ptr() for parameter in model.parameters()] == places
        return [parameter.detach() for parameter in model.parameters()]

    torch.testing.assert_close(train(True), train(False), rtol=0, atol=0)


def test_compiled_blocks_are_for_training_alone() -> None:
    model = _network()
    assert compile_blocks(model.network) == 4
    model.network.eval()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad():
        model.hidden_states(torch.arange(8).unsqueeze(0), None)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_training_is_the_same(train: Train, checkpointing: bool) -> None:
    options = {"max_steps": 3, "activation_checkpointing": checkpointing}
    plain = train("plain", training=options)
    torch._dynamo.reset()
    compiled = train("compiled", training={**options, "compile": True})
    assert list(compiled.series("loss").values()) == pytest.approx(list(plain.series("loss").values()), rel=1e-5)
    torch.testing.assert_close(_weights(compiled), _weights(plain), rtol=1e-4, atol=1e-5)
    # One graph serves all blocks.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("adapter", [{}, {"use_dora": True}, {"use_rslora": True}, {"type": "qlora"}])
def test_adapters_train_and_resume_exactly(tmp_path: Path, train: Train, adapter: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    base = train("base", training={"max_steps": 1})
    document = tiny_recipe(chat_rows(tmp_path), **ONE_THREAD, adapter={"rank": 4, **adapter}, training={"max_steps": 4})
    document["model"] = {"name": str(base.checkpoint), "max_seq_len": 128}
    whole = Run(tmp_path / "whole", document).attempt()
    cut = Run(tmp_path / "cut", document)
    log = cut.folder / "1-0.jsonl"
    first = cut.attempt(stop=lambda: "asked" if log.read_text().count('"type":"metrics"') >= 2 else None)
    second = cut.attempt()
    assert first.result.step == 2
    assert {**first.series("loss"), **second.series("loss")} == whole.series("loss")
    torch.testing.assert_close(_weights(second), _weights(whole), rtol=0, atol=0)
    losses = list(whole.series("loss").values())
    assert losses[-1] < losses[0]


def test_scale_of_rslora_is_by_the_root_of_the_rank() -> None:
    model = apply_lora(_network(), AdapterSection(rank=16, alpha=32.0, use_rslora=True), seed=0)
    scales = {module.scaling["default"] for module in model.network.modules() if hasattr(module, "lora_A")}
    assert scales == {8.0}


def test_four_bit_weights_take_an_eighth_and_stay_close() -> None:
    pytest.importorskip("bitsandbytes")
    plain, small = _network(), _network()
    quantize_linear_layers(small.network, "fp32")
    block = small.network.base_model.layers[0]
    full = plain.network.base_model.layers[0].mlp.up_proj.weight
    assert block.mlp.up_proj.weight.dtype == torch.uint8
    assert block.mlp.up_proj.weight.numel() == full.numel() // 2
    assert type(small.network.get_output_embeddings()) is nn.Linear
    tokens = torch.arange(32).unsqueeze(0)
    wanted, found = (model.hidden_states(tokens, None).detach() for model in (plain, small))
    assert float((found - wanted).norm() / wanted.norm()) < 0.2
