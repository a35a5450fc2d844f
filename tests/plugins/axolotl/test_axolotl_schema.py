"""Own keys compared with a schema as Axolotl gives it, and trainer state without pickle. Needs no Axolotl."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from nexa.errors import UserError, WorkerError
from nexa_axolotl.schema import AxolotlSchema, read_schema

SCHEMA = AxolotlSchema.from_document(
    {
        "axolotl": "0.19.0",
        "unread": ["wandb_watch"],
        "schema": {
            "properties": {
                "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "rl_beta": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "wandb_watch": {"type": "string"},
                "bf16": {"anyOf": [{"const": "auto", "type": "string"}, {"type": "boolean"}]},
                "rl": {"anyOf": [{"$ref": "#/$defs/RLType"}, {"type": "null"}]},
                "trl": {"anyOf": [{"$ref": "#/$defs/TRLConfig"}, {"type": "null"}]},
                "datasets": {
                    "anyOf": [{"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/D"}, {"$ref": "#/$defs/P"}]}}]
                },
                "kwargs": {"type": "object", "additionalProperties": True},
                "template": {"anyOf": [{"type": "string", "pattern": "^fallback_"}]},
            },
            "$defs": {
                "RLType": {"enum": ["dpo", "kto"], "type": "string"},
                "TRLConfig": {"type": "object", "properties": {"beta": {"type": "number"}}},
                "D": {"type": "object", "properties": {"path": {"type": "string"}, "roles": {"type": "object"}}},
                "P": {"type": "object", "properties": {"path": {"type": "string"}, "chosen": {"type": "string"}}},
            },
        },
    }
)


@pytest.mark.parametrize(
    "own",
    [
        {"seed": 1, "rl_beta": 1, "bf16": "auto"},
        {"bf16": True, "rl": "dpo", "trl": {"beta": 0.5}},
        {"datasets": [{"path": "x"}], "kwargs": {"anything": [1]}, "template": "fallback_x"},
        {"seed": None, "rl": None, "wandb_watch": None},
    ],
)
def test_what_axolotl_takes_is_taken(own: dict[str, Any]) -> None:
    """Values of every allowed form pass."""
    assert list(SCHEMA.problems(own, section="axolotl")) == []


@pytest.mark.parametrize(
    ("own", "path", "said"),
    [
        ({"use_cpu": True}, "axolotl.use_cpu", "has no such key and would ignore it"),
        ({"sed": 3}, "axolotl.sed", "did you mean 'seed'?"),
        ({"wandb_watch": "x"}, "axolotl.wandb_watch", "does nothing with it"),
        ({"seed": "3"}, "axolotl.seed", "'3' is not a whole number"),
        ({"seed": True}, "axolotl.seed", "True is not a whole number"),
        ({"bf16": "always"}, "axolotl.bf16", "'always' is not"),
        ({"rl": "dop"}, "axolotl.rl", "did you mean 'dpo'?"),
        ({"trl": {"betta": 1}}, "axolotl.trl.betta", "did you mean 'beta'?"),
        ({"datasets": [{"path": "x", "tpye": "y"}]}, "axolotl.datasets.0.tpye", "would ignore it"),
        ({"datasets": [{"path": "x", "chosen": "y", "roles": {}}]}, "axolotl.datasets.0", "remove chosen or roles"),
        ({"template": "other"}, "axolotl.template", "does not match"),
    ],
)
def test_what_it_would_ignore_or_refuse_is_a_problem(own: dict[str, Any], path: str, said: str) -> None:
    """By place, with what was meant where that is clear."""
    (problem,) = SCHEMA.problems(own, section="axolotl")
    assert problem.path == path
    assert said in str(problem)


def test_an_interpreter_without_axolotl_is_named(tmp_path: Path) -> None:
    """It can't be asked, and says why."""
    with pytest.raises(UserError, match="No module named 'axolotl'"):
        read_schema(Path(sys.executable), tmp_path)


def test_trainer_state_comes_back_without_pickle(tmp_path: Path) -> None:
    """Optimizer, schedule and random numbers are the same after a way through safetensors and JSON."""
    torch = pytest.importorskip("torch")
    import numpy as np

    from nexa_axolotl import state

    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = {"last_epoch": 3, "_last_lr": [1e-05], "base": float("inf"), "lambdas": [None, {}]}
    numbers = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    for name, value in (
        ("optimizer.pt", optimizer.state_dict()),
        ("scheduler.pt", schedule),
        ("rng_state.pth", numbers),
        ("training_args.bin", {"a": 1}),
    ):
        torch.save(value, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    state.store(checkpoint, artifact)
    assert [file.name for file in checkpoint.iterdir()] == ["model.safetensors"]
    suffixes = {file.suffix for file in artifact.rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert state.has_state(artifact)
    (checkpoint / "model.safetensors").rename(artifact / "model.safetensors")
    again = tmp_path / "again"
    state.restore(artifact, again)
    loaded = torch.load(again / "optimizer.pt", weights_only=True)
    assert str(loaded) == str(optimizer.state_dict())
    assert torch.load(again / "scheduler.pt", weights_only=True) == schedule
    back = torch.load(again / "rng_state.pth", weights_only=False)
    assert back["python"] == numbers["python"]
    random.setstate(back["python"])
    np.random.set_state(back["numpy"])
    assert torch.equal(back["cpu"], numbers["cpu"])
    assert (again / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((again / "trainer_state.json").read_text()) == {"global_step": 3}


def test_state_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    """By its place, before anything is stored of it."""
    torch = pytest.importorskip("torch")
    from nexa_axolotl import state

    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    torch.save({"x": {"y": {1, 2}}}, checkpoint / "scheduler.pt")
    target = tmp_path / "artifact"
    target.mkdir()
    with pytest.raises(WorkerError, match=r"scheduler\.pt/x/y holds a set"):
        state.store(checkpoint, target)
