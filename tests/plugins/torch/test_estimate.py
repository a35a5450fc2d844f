"""The memory formula counts what a forward pass really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nexa.backend import Resources
from nexa.recipe.schema import Recipe
from nexa_torch.activations import activation_bytes, half_weight_bytes
from nexa_torch.backend import TorchBackend
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.engine.precision import Precision
from nexa_torch.estimate import model_sizes
from nexa_torch.memory import recompute_activations
from nexa_torch.models import apply_lora, load_model

LENGTH, ROWS = 128, 4
LLAMA = {"name": "llama", "tokenizer": "bytes", "d_model": 192, "n_layers": 4, "n_heads": 6, "n_kv_heads": 2}
ON_CPU = Resources(num_nodes=1, gpus_per_node=0, processes_per_node=1)


def _recipe(**sections: Any) -> Recipe:
    training = {"microbatch_size_per_gpu": ROWS, "max_steps": 1, **sections.pop("training", {})}
    document = {"method": "sft", "model": {**LLAMA, "max_seq_len": LENGTH}, "data": {"remote_uri": "x"}}
    return Recipe.model_validate({**document, "training": training, **sections})


def _kept_bytes(recipe: Recipe) -> int:
    """Bytes of all storages that a forward pass over packed rows saves, weights not counted."""
    model = load_model(recipe.model, load_tokenizer(recipe.model), row_length=LENGTH, seed=0)
    if recipe.adapter is not None:
        apply_lora(model, recipe.adapter, seed=0)
    model.network.train()
    if mode := recipe.training.activation_checkpointing:
        recompute_activations(model.network, selective=mode == "selective")
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.network.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # Kept alive, or another tensor could take its address.
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.arange(ROWS * LENGTH).remainder(200).view(ROWS, LENGTH)
    positions = torch.arange(LENGTH // 2).repeat(2).repeat(ROWS, 1)
    precision = Precision(recipe.training.precision, torch.device("cpu"))
    with precision.autocast(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden_states(tokens, positions)
    return sum(kept.values())


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"adapter": {"rank": 16}},
        {"training": {"precision": "bf16"}},
        {"adapter": {"rank": 16}, "training": {"precision": "bf16"}},
    ],
)
def test_activations_are_counted(sections: dict[str, Any]) -> None:
    recipe = _recipe(**sections)
    sizes = model_sizes(recipe.model)
    assert sizes is not None
    formula = activation_bytes(recipe, sizes, ROWS * LENGTH) + half_weight_bytes(recipe, sizes)
    assert _kept_bytes(recipe) == pytest.approx(formula, rel=0.06)


def test_checkpointing_is_counted() -> None:
    recipes = [_recipe(training={"activation_checkpointing": mode}) for mode in (True, "selective", False)]
    sizes = model_sizes(recipes[0].model)
    assert sizes is not None
    full, selective, plain = (activation_bytes(recipe, sizes, ROWS * LENGTH) for recipe in recipes)
    assert full < selective < plain
    one_block = (plain - activation_bytes(_recipe(), replace(sizes, layers=0), ROWS * LENGTH)) // sizes.layers
    assert _kept_bytes(recipes[0]) == pytest.approx(full - one_block, rel=0.06)


@pytest.mark.parametrize(
    ("optimizer", "bytes_"),
    [({"name": "adamw"}, 8), ({"name": "lion"}, 4), ({"name": "sgd"}, 0), ({"name": "sgd", "momentum": 0.9}, 4)],
)
def test_optimizer_state_is_counted(optimizer: dict[str, Any], bytes_: int) -> None:
    estimate = TorchBackend().estimate(_recipe(optimizer=optimizer), ON_CPU)
    assert estimate.trainable_parameters is not None
    assert estimate.memory_bytes["optimizer"] == bytes_ * estimate.trainable_parameters


def test_eight_and_four_bits_are_counted() -> None:
    plain = TorchBackend().estimate(_recipe(), ON_CPU)
    small = TorchBackend().estimate(_recipe(optimizer={"name": "adamw_8bit"}), ON_CPU)
    assert small.memory_bytes["optimizer"] < 0.26 * plain.memory_bytes["optimizer"]
    lora = TorchBackend().estimate(_recipe(adapter={"rank": 4}), ON_CPU)
    qlora = TorchBackend().estimate(_recipe(adapter={"rank": 4, "type": "qlora"}), ON_CPU)
    assert qlora.memory_bytes["weights"] < 0.3 * lora.memory_bytes["weights"]
