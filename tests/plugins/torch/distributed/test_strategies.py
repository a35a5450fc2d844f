"""Two processes, with a copy of the model each or a shard each, train what one process does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from starting import start


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process, two with copies and two with shards wrote."""
    folder = tmp_path_factory.mktemp("spread")
    runs = {"one": ("ddp", 1), "ddp": ("ddp", 2), "fsdp": ("fsdp", 2)}
    for name, (strategy, world_size) in runs.items():
        start("spread_worker.py", strategy, str(folder / name), world_size=world_size).succeed()
    return {name: folder / name for name in runs}


@pytest.mark.parametrize("case", ["pretrain", "sft", "lora"])
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_equal_one(trained: dict[str, Path], name: str, case: str) -> None:
    expected = json.loads((trained["one"] / f"{case}.json").read_text())
    found = json.loads((trained[name] / f"{case}.json").read_text())
    assert min(expected["norms"]) > 0.0
    assert found["losses"] == pytest.approx(expected["losses"], rel=2e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=2e-4)
    weights = load_file(trained["one"] / f"{case}.safetensors")
    others = load_file(trained[name] / f"{case}.safetensors")
    assert others.keys() == weights.keys()
    for key, value in weights.items():
        assert others[key].numpy() == pytest.approx(value.numpy(), rel=1e-2, abs=2e-4), key


def test_one_model_on_the_machine_not_one_a_rank(trained: dict[str, Path]) -> None:
    """One rank loads a sharded model; another holds no more than its shard and a block on its way."""
    first, second = (json.loads((trained["fsdp"] / str(rank) / "memory.json").read_text()) for rank in range(2))
    size = first["model"]
    assert size == second["model"] > 90e6
    assert first["grown"] < 1.8 * size, "the whole model and its own half"
    assert second["grown"] < 0.85 * size, "its half, and a block at a time"
