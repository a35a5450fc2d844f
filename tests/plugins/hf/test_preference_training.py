"""Methods on preferences and rewards: what they learn, that they resume exactly, and what stops them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from preference_rows import preference_recipe
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
    recipe = preference_recipe(tmp_path, method, sections, epochs=2.0)
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


def test_a_reward_model_loads_as_a_classifier_and_prefers_the_better_answer(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from nexa.errors import UserError
    from nexa_torch.chat import open_chat

    sections = {"optimizer": {"lr": 1e-2, "scheduler": {"name": "constant"}}}
    finished = run(tmp_path / "run", preference_recipe(tmp_path, "reward", sections, max_steps=12)).attempt()
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
    recipe = preference_recipe(tmp_path, "grpo", {"rollouts": rollouts}, max_steps=2, save_every_steps=1)
    rows = [{"prompt": "Colour?", "listed": [1, 2]}] * 4
    Path(recipe["data"]["remote_uri"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RewardError) as caught:
        run(tmp_path / "run", recipe).attempt()
    assert "reward 'exact-answer' raised TypeError: column 'listed' must hold text or a number" in str(caught.value)
    assert "row " in str(caught.value)
    assert "pairs.jsonl:" in str(caught.value)
    assert list((tmp_path / "run").rglob("manifest.json")) == []
