"""Runs that are cut and go on: on the same processes to the bit, with other processes and strategies in tolerance."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from running import RUN_ID, Run, chat_rows, tiny_recipe
from starting import start

STEPS = 6


def recipe(rows: Path, processes: int, **distributed: Any) -> dict[str, Any]:
    """Two microbatches a step on two processes, four on one; the last step is short."""
    return tiny_recipe(
        rows,
        training={
            "max_steps": None,
            "epochs": STEPS - 0.7,
            "global_batch_size": 4,
            "microbatch_size_per_gpu": 1,
            "save_every_steps": 2,
            "eval_every_steps": 3,
        },
        model={"d_model": 32},
        data={"validation": {"fraction": 0.25}, "packing": False, "max_documents": 4},
        cluster={"threads_per_process": 1, "processes_per_node": processes},
        checkpointing={"async_save": distributed.pop("async_save", False)},
        samples={"prompts": ["Count"], "max_new_tokens": 4},
        distributed=distributed,
        torch={"cpu_matmul": "native"},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, all done by the same two: whole and cut, copied and sharded."""
    folder = tmp_path_factory.mktemp("resharding")
    rows = chat_rows(folder)
    ddp, fsdp = recipe(rows, 2, strategy="ddp"), recipe(rows, 2, strategy="fsdp", async_save=True)
    plan = [
        ("ddp", ddp, 1, None),
        ("ddp-cut", ddp, 1, 3),
        ("ddp-cut", ddp, 2, None),
        ("fsdp", fsdp, 1, None),
        ("fsdp-cut", fsdp, 1, 3),
        ("fsdp-cut", fsdp, 2, None),
        ("mixed", ddp, 1, 2),
        ("mixed", fsdp, 2, 4),
    ]
    phases = [
        {"folder": str(folder / name), "recipe": document, "attempt": attempt, "stop_at": stop_at}
        for name, document, attempt, stop_at in plan
    ]
    (folder / "phases.json").write_text(json.dumps(phases))
    start("run_worker.py", str(folder / "phases.json")).succeed()
    return folder


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Loss and gradient norm by step, over all attempts; a step is in one attempt only."""
    found: dict[int, dict[str, float]] = {}
    for log in sorted(run.glob("*-0.jsonl")):
        for event in map(json.loads, log.read_text().splitlines()):
            if event["type"] == "metrics":
                assert event["step"] not in found
                found[event["step"]] = {key: event["values"][key] for key in ("loss", "grad_norm", "tokens")}
    return found


def checkpoint(run: Path) -> Path:
    """The newest checkpoint's folder."""
    return max((run / "store" / "checkpoints" / RUN_ID).iterdir())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a checkpoint."""
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "trainer/optimizer/state.safetensors")}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_same_processes_continue_to_the_bit(home: Path, strategy: str) -> None:
    whole, cut = home / strategy, home / f"{strategy}-cut"
    assert len(list(cut.glob("*-0.jsonl"))) == 2
    assert losses(cut) == losses(whole)
    assert checkpoint(cut).name == checkpoint(whole).name
    expected, found = tensors(checkpoint(whole)), tensors(checkpoint(cut))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_copies_and_shards_write_the_same_files(home: Path) -> None:
    ddp, fsdp = checkpoint(home / "ddp"), checkpoint(home / "fsdp")
    names = sorted(str(path.relative_to(ddp)) for path in ddp.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(fsdp)) for path in fsdp.rglob("*") if path.is_file())
    copied, sharded = tensors(ddp), tensors(fsdp)
    assert {name: value.shape for name, value in copied.items()} == {name: v.shape for name, v in sharded.items()}
    for name, value in copied.items():
        assert sharded[name].numpy() == pytest.approx(value.numpy(), rel=1e-2, abs=1e-4), name


def test_another_strategy_and_number_of_processes(home: Path, tmp_path: Path) -> None:
    document = recipe(home / "chat.jsonl", 1)
    one = Run(tmp_path / "one", document).attempt()
    mixed = Run(home / "mixed", document)
    mixed.continue_from(checkpoint(home / "mixed"), attempt=3)
    assert mixed.attempt().result.step == one.result.step
    expected, found = losses(tmp_path / "one"), losses(home / "mixed")
    assert found.keys() == expected.keys()
    for key in ("loss", "grad_norm", "tokens"):
        assert [found[step][key] for step in expected] == pytest.approx([e[key] for e in expected.values()], rel=2e-4)
    assert one.checkpoint is not None
    weights, others = (
        load_file(one.checkpoint / "model.safetensors"),
        load_file(checkpoint(home / "mixed") / "model.safetensors"),
    )
    for name, value in weights.items():
        assert others[name].numpy() == pytest.approx(value.numpy(), rel=1e-2, abs=1e-4), name


def test_a_sharded_checkpoint_loads_with_transformers(home: Path) -> None:
    folder = checkpoint(home / "fsdp")
    network = AutoModelForCausalLM.from_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.items())


def test_no_checkpoint_holds_a_pickle(home: Path) -> None:
    suffixes = {path.suffix for path in checkpoint(home / "fsdp").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}
