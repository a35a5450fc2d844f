"""Methods on preferences and rewards: what they learn, that they resume exactly, and what stops them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from running import Finished, Run

from nexa.errors import RewardError
from nexa_hf.run import run_training

REWARDS = [{"name": "length", "options": {"max_words": 3}}, {"name": "exact-answer", "weight": 0.5}]
ROLLOUTS = {"rewards": REWARDS, "generations": 4, "max_completion_length": 6, "kl_beta": 0.05}
LORA = {"rank": 4, "dropout": 0.1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {}),
    "dpo, adapter, scored before": ("dpo", {"adapter": LORA, "preference": {"precompute_reference": True}}),
    "dpo, scored before": ("dpo", {"preference": {"precompute_reference": True}}),
    "kto": ("kto", {}),
    "orpo, adapter": ("orpo", {"adapter": LORA}),
    "reward": ("reward", {}),
    "reward, adapter": ("reward", {"adapter": LORA}),
    "grpo": ("grpo", {"rollouts": ROLLOUTS}),
    "grpo, adapter": ("grpo", {"rollouts": ROLLOUTS, "adapter": LORA}),
}
SOAK = ("dpo, scored before", "reward", "grpo")
"""Cases whose parts the others cover."""
FIGURES = {
    "dpo": {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"},
    "kto": {"rewards/chosen", "rewards/rejected", "rewards/margins", "kl"},
    "orpo": {"rewards/margins", "rewards/accuracies", "nll_loss", "log_odds_ratio"},
    "reward": {"accuracy", "margin", "mean_reward"},
    "grpo": {"reward", "reward_std", "rewards/length/mean", "rewards/exact-answer/mean", "kl", "entropy"},
}


def pairs(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Colour {i}?", "chosen": "Blue" + "!" * (i % 3), "rejected": f"Seven {i}.", "answer": i}
        for i in range(count)
    ]


def document(folder: Path, method: str, sections: Mapping[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    rows = {"microbatch_size_per_gpu": 2, "grad_accumulation_steps": 2 if method == "grpo" else 1}
    return {
        "method": method,
        "backend": "hf",
        "model": {
            **{"name": "llama", "d_model": 32, "n_layers": 2, "n_heads": 2},
            **{"tokenizer": "bytes", "max_seq_len": 96},
        },
        "data": {"remote_uri": str(path)},
        "training": {"seed": 7, **rows, **training},
        "optimizer": {"lr": 1e-3},
        "cluster": {"threads_per_process": 1},
        **(sections or {}),
    }


def run(folder: Path, recipe: Mapping[str, Any]) -> Run:
    return Run(folder, recipe, train=run_training)


def weights(finished: Finished) -> dict[str, str]:
    assert finished.checkpoint is not None
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in finished.checkpoint.glob("*.safetensors")
    }


@pytest.mark.parametrize(
    ("method", "sections"),
    [pytest.param(*case, id=name, marks=[pytest.mark.soak] if name in SOAK else []) for name, case in CASES.items()],
)
def test_a_stopped_run_continues_exactly(
    tmp_path: Path, method: str, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second pass over the data, where the order of rows is another one."""
    monkeypatch.setenv("NEXA_CACHE_DIR", str(tmp_path / "cache"))
    recipe = document(tmp_path, method, sections, epochs=2.0)
    whole = run(tmp_path / "whole", recipe).attempt()
    assert FIGURES[method] <= set(whole.of("metrics")[-1]["values"])
    stop_after = whole.result.step // 2 + 1
    parts = run(tmp_path / "parts", recipe)
    log = tmp_path / "parts" / "1-0.jsonl"

    def stop() -> str | None:
        done = log.read_text().count('"metrics"') if log.exists() else 0
        return "test" if done >= stop_after else None

    first = parts.attempt(stop=stop)
    assert first.result.state == "stopped"
    assert 0 < first.result.step < whole.result.step
    second = parts.attempt()
    assert second.result.state == "completed"
    assert {**first.series("loss"), **second.series("loss")} == whole.series("loss")
    assert weights(second) == weights(whole)


@pytest.mark.parametrize(
    ("method", "same"),
    [
        ("dpo", True),
        ("reward", True),
        # The cross-entropy of ORPO is the mean over a microbatch's tokens, however many another one has.
        ("orpo", False),
        # KTO estimates the divergence from a microbatch.
        ("kto", False),
    ],
)
def test_accumulation(tmp_path: Path, method: str, same: bool) -> None:
    """A step of four rows at once, or in two microbatches of two."""
    losses = []
    for rows, accumulation in ((4, 1), (2, 2)):
        sizes = {"microbatch_size_per_gpu": rows, "grad_accumulation_steps": accumulation}
        recipe = document(tmp_path, method, max_steps=2, **sizes)
        losses.append(run(tmp_path / f"{rows}", recipe).attempt().series("loss"))
    # Sums of fp32 numbers in another order.
    assert (losses[0] == pytest.approx(losses[1], rel=2e-6)) is same


def test_dpo_is_plain_trl_to_the_last_digit(tmp_path: Path) -> None:
    """The same rows as text through TRL's own preparation, model and trainer, outside Nexa."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from nexa.recipe.sections.model import ModelSection
    from nexa_torch.data.tokenizer import load_tokenizer
    from nexa_torch.models import load_model

    recipe = document(tmp_path, "dpo", max_steps=3)
    ours = run(tmp_path / "ours", recipe).attempt().series("loss")
    section = ModelSection.model_validate(recipe["model"])
    tokenizer = load_tokenizer(section)
    model, reference = (load_model(section, tokenizer, row_length=96, seed=7).network for _ in range(2))
    turn = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = [{key: [{"role": role, "content": row[key]}] for key, role in turn.items()} for row in pairs()]
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(
            **{"output_dir": str(tmp_path / "trl"), "seed": 7, "max_steps": 3, "per_device_train_batch_size": 2},
            **{"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "weight_decay": 0.0, "logging_steps": 1},
            **{"adam_beta2": 0.95, "gradient_checkpointing": False, "bf16": False, "use_cpu": True},
            **{"max_length": 96, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    plain = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert ours == plain
    assert ours[1] == pytest.approx(math.log(2))


def test_a_reward_model_loads_as_a_classifier_and_prefers_the_better_answer(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from nexa.errors import UserError
    from nexa_torch.chat import open_chat

    sections = {"optimizer": {"lr": 1e-2, "scheduler": {"name": "constant"}}}
    finished = run(tmp_path / "run", document(tmp_path, "reward", sections, max_steps=12)).attempt()
    assert finished.of("metrics")[-1]["values"]["accuracy"] == 1.0
    model = AutoModelForSequenceClassification.from_pretrained(finished.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(finished.checkpoint)
    scores = []
    for answer in ("Blue!", "Seven 1."):
        turns = [{"role": "user", "content": "Colour 1?"}, {"role": "assistant", "content": answer}]
        with torch.no_grad():
            scores.append(model(**tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")).logits)
    assert scores[0].shape == (1, 1)
    assert scores[0].item() > scores[1].item()
    assert finished.checkpoint is not None
    with pytest.raises(UserError, match="reward model"):
        open_chat(finished.checkpoint)


def test_a_reward_that_raises_ends_the_run_with_its_name_row_and_answer(tmp_path: Path) -> None:
    rollouts = {**ROLLOUTS, "rewards": [{"name": "exact-answer", "options": {"column": "listed"}}]}
    recipe = document(tmp_path, "grpo", {"rollouts": rollouts}, max_steps=2, save_every_steps=1)
    rows = [{"prompt": "Colour?", "listed": [1, 2]}] * 4
    Path(recipe["data"]["remote_uri"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RewardError) as caught:
        run(tmp_path / "run", recipe).attempt()
    assert "reward 'exact-answer' raised TypeError: column 'listed' must hold text or a number" in str(caught.value)
    assert "row " in str(caught.value)
    assert "pairs.jsonl:" in str(caught.value)
    assert list((tmp_path / "run").rglob("manifest.json")) == []
