"""Runs of the Hugging Face backend: the numbers are the trainers' own, and a resumed run repeats them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from datasets import load_dataset
from hf_running import hashes, hf_recipe, hf_run, logged, one_thread, plain_arguments, recorded, tiny_model
from peft import LoraConfig, PeftModel
from running import chat_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from nexa.backend import RunState
from nexa.errors import UserError, WorkerError

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_rows(tmp_path_factory.mktemp("rows"), 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "base", rows)


def plain_sft(folder: Path, rows: Path, model: Path, adapter: LoraConfig | None, **arguments: Any) -> Any:
    """The job as a TRL user writes it: raw conversations, TRL's own template, masks and packing."""
    one_thread()
    data = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(folder / "cache"))
    config = SFTConfig(**{**plain_arguments(folder), **arguments}, max_length=128, assistant_only_loss=True)
    network = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(config.seed)
    trainer = SFTTrainer(
        model=network,
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=adapter,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("sections", "arguments", "adapter"),
    [
        ({}, {"packing": True}, None),
        ({"data": {"packing": False}}, {"packing": False}, None),
        (
            {"adapter": LORA},
            {"packing": True},
            LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        ),
        ({"training": {"activation_checkpointing": True}}, {"packing": True, "gradient_checkpointing": True}, None),
    ],
    ids=["packed", "unpacked", "lora", "recomputed"],
)
def test_fine_tuning_is_that_of_plain_trl(
    tmp_path: Path,
    rows: Path,
    model: Path,
    sections: Mapping[str, Any],
    arguments: Mapping[str, Any],
    adapter: LoraConfig | None,
) -> None:
    """Losses, gradient norms and rates of every step are the same to the last digit, from the same JSONL file."""
    run = hf_run(tmp_path / "run", hf_recipe(rows, model, **sections)).attempt()
    plain = plain_sft(tmp_path / "plain", rows, model, adapter, **arguments)
    assert recorded(run) == logged(plain)


def test_pretraining_is_that_of_plain_transformers(tmp_path: Path, rows: Path, model: Path) -> None:
    """A trainer outside Nexa sees the same losses on the same documents, one a row."""
    run = hf_run(tmp_path / "run", hf_recipe(rows, model, method="pretrain", data={"packing": False})).attempt()
    one_thread()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    data = [tokenizer.apply_chat_template(text, tokenize=True, return_dict=True)["input_ids"] for text in texts]

    def collate(batch: list[list[int]]) -> dict[str, torch.Tensor]:
        width = math.ceil(max(map(len, batch)) / 8) * 8
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        labels = torch.full((len(batch), width), -100)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = labels[row, : len(tokens)] = torch.tensor(tokens)
        return {"input_ids": ids, "labels": labels}

    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=TrainingArguments(**plain_arguments(tmp_path / "plain"), remove_unused_columns=False),
        train_dataset=data,  # type: ignore[arg-type]
        data_collator=collate,
    )
    trainer.train()
    assert recorded(run) == logged(trainer)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"eval_every_steps": 2, "save_every_steps": 4}},
        {"method": "pretrain", "training": {"log_every_steps": 4}},
        {"adapter": {**LORA, "dropout": 0.1, "use_dora": True}},
        {
            "optimizer": {"scheduler": {"name": "plateau", "patience": 0}},
            "training": {"eval_every_steps": 1},
            "data": {"packing": False},
        },
    ],
    ids=["sft", "pretrain", "dora-dropout", "plateau"],
)
def test_a_stopped_run_continues_exactly(tmp_path: Path, rows: Path, model: Path, sections: Mapping[str, Any]) -> None:
    """Losses, tokens, and every saved byte of weights, optimizer and random numbers, also past the end of a pass."""
    training = {"max_steps": 6, "microbatch_size_per_gpu": 1, "grad_accumulation_steps": 2, "seed": 5}
    merged = {**sections, "training": {**training, **sections.get("training", {})}}
    data = {"validation": {"fraction": 0.2}, **sections.get("data", {})}
    document = hf_recipe(rows, model, **{**merged, "data": data})
    straight = hf_run(tmp_path / "straight", document).attempt()
    run = hf_run(tmp_path / "stopped", document)
    # Four steps are on record, or in the second case one: the stop meets an evaluation or the step behind it.
    records = 4 // merged["training"].get("log_every_steps", 1)
    log = tmp_path / "stopped" / "1-0.jsonl"

    def stop() -> str | None:
        return "test" if log.exists() and log.read_text().count('"metrics"') >= records else None

    first = run.attempt(stop=stop)
    assert first.result.state is RunState.STOPPED
    assert 0 < first.result.step < 6
    second = run.attempt()
    assert second.result.state is RunState.COMPLETED
    for name in ("loss", "lr", "grad_norm", "tokens"):
        assert {**first.series(name), **second.series(name)} == straight.series(name), name
    assert straight.checkpoint is not None
    assert second.checkpoint is not None
    assert hashes(second.checkpoint) == hashes(straight.checkpoint)


def test_a_checkpoint_is_a_plain_model(tmp_path: Path, rows: Path, model: Path) -> None:
    """It loads in transformers alone, and nothing in it needs pickle."""
    run = hf_run(tmp_path, hf_recipe(rows, model, data={"validation": {"fraction": 0.2}})).attempt()
    assert run.checkpoint is not None
    suffixes = {file.suffix for file in run.checkpoint.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja"}
    loaded = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert AutoTokenizer.from_pretrained(run.checkpoint).chat_template
    tokens = torch.arange(8)[None]
    assert not torch.equal(loaded(tokens).logits, AutoModelForCausalLM.from_pretrained(model)(tokens).logits)


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_an_adapter_is_a_plain_peft_adapter(tmp_path: Path, rows: Path, model: Path, kind: Mapping[str, Any]) -> None:
    """It loads on its base model with PEFT alone, and changes what the model says."""
    run = hf_run(tmp_path, hf_recipe(rows, model, adapter={**LORA, **kind})).attempt()
    assert run.checkpoint is not None
    base = AutoModelForCausalLM.from_pretrained(model)
    tokens = torch.arange(8)[None]
    before = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, run.checkpoint)
    assert not torch.equal(adapted(tokens).logits, before)
    config = adapted.peft_config["default"]
    assert (config.use_dora, config.use_rslora) == (kind.get("use_dora", False), kind.get("use_rslora", False))


def test_events_tell_what_the_own_engine_tells(tmp_path: Path, rows: Path, model: Path) -> None:
    """Evaluations before, during and after training, samples behind them, and the figures of every step."""
    document = hf_recipe(
        rows,
        model,
        data={"validation": {"fraction": 0.2}},
        training={"eval_every_steps": 4},
        samples={"prompts": ["Count to 3."], "max_new_tokens": 3},
    )
    run = hf_run(tmp_path, document).attempt()
    assert [event["step"] for event in run.of("eval")] == [0, 4, 6]
    assert [event["step"] for event in run.of("sample")] == [0, 4, 6]
    for event in run.of("eval"):
        assert event["values"]["perplexity"] == pytest.approx(math.exp(event["values"]["eval_loss"]))
    expected = {"loss", "lr", "grad_norm", "tokens", "tokens_per_second", "trained_tokens_per_second"}
    assert all(event["values"].keys() >= expected | {"step_seconds", "memory_bytes"} for event in run.of("metrics"))
    assert {event["phase"] for event in run.of("progress")} >= {"loading", "training", "evaluating", "saving"}


def test_training_ends_when_nothing_improves(tmp_path: Path, rows: Path, model: Path) -> None:
    document = hf_recipe(
        rows,
        model,
        data={"validation": {"fraction": 0.2}},
        training={
            "max_steps": 20,
            "eval_every_steps": 1,
            "early_stopping": {"patience": 2, "min_delta": 100.0},
        },
    )
    run = hf_run(tmp_path, document).attempt()
    assert run.result.state is RunState.COMPLETED
    assert run.result.step == 3
    assert run.result.reason == f"eval_loss did not improve in 2 evaluations; the best was {best(run):.6g} at step 1"
    assert run.result.checkpoint == "checkpoints/run/step-00000003"


def best(run: Any) -> float:
    """The evaluation loss behind the first step."""
    return float(next(event for event in run.of("eval") if event["step"] == 1)["values"]["eval_loss"])


def test_passes_over_the_data_are_counted(tmp_path: Path, rows: Path, model: Path) -> None:
    """Two passes, evaluated behind each, without a number of steps in the recipe."""
    document = hf_recipe(
        rows,
        model,
        data={"validation": {"fraction": 0.2}, "packing": False},
        training={"max_steps": None, "epochs": 2.0, "eval_every_epochs": 1},
    )
    run = hf_run(tmp_path, document).attempt()
    assert run.result.step == 8
    assert [event["step"] for event in run.of("eval")] == [0, 4, 8]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, rows: Path, model: Path) -> None:
    document = hf_recipe(rows, model, optimizer={"lr": 1e30, "scheduler": {"name": "constant"}})
    with pytest.raises(WorkerError, match=r"the loss of step \d is nan"):
        hf_run(tmp_path, document).attempt()


def test_own_arguments_reach_the_trainer(tmp_path: Path, rows: Path, model: Path) -> None:
    """And what the trainer's class refuses is told as it says it."""
    plain = hf_run(tmp_path / "a", hf_recipe(rows, model)).attempt()
    noisy = hf_run(tmp_path / "b", hf_recipe(rows, model, hf={"arguments": {"neftune_noise_alpha": 50.0}})).attempt()
    assert plain.series("loss") != noisy.series("loss")
    document = hf_recipe(rows, model, hf={"arguments": {"loss_type": "nothing"}})
    with pytest.raises(UserError, match="SFTConfig refuses the run: Invalid `loss_type`"):
        hf_run(tmp_path / "c", document).attempt()


def test_a_run_does_not_continue_on_other_data(tmp_path: Path, rows: Path, model: Path) -> None:
    run = hf_run(tmp_path, hf_recipe(rows, model))
    first = run.attempt(stop=lambda: None)
    assert first.checkpoint is not None
    other = hf_run(tmp_path / "other", hf_recipe(rows, model, training={"seed": 9, "max_steps": 8}))
    other.continue_from(first.checkpoint, attempt=2)
    with pytest.raises(UserError, match="seed was 3 and is 9; total_steps was 6 and is 8"):
        other.attempt()
