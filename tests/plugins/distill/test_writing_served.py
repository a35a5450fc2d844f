"""A teacher behind `nexa serve` writes rows that a student is then fine-tuned on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from nexa.cli.main import main
from nexa.testing.recipes import tiny_recipe
from nexa_torch.data.byte_tokenizer import byte_tokenizer
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.models import load_model, save_model
from nexa_torch.tasks.registry import load_data_module, load_task

pytest.importorskip("starlette")


def save_speaker(folder, template, words):
    """Save a model that says `words` after any prompt: each byte's successor is the next, whatever came before."""
    from nexa.recipe.sections.model import ModelSection

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    size = len(tokenizer) + len(tokenizer) % 2
    section = ModelSection(name="llama", tokenizer="bytes", d_model=size, n_layers=1, n_heads=1, max_seq_len=512)
    model = load_model(section, tokenizer, row_length=512, seed=0)
    ids = tokenizer("\n" + words, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if "norm" not in name:
                weight.zero_()
        embedding, head = model.network.get_input_embeddings().weight, torch.zeros(len(tokenizer), size)
        embedding.copy_(torch.eye(size)[: len(embedding)])
        for token, following in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
            head[following, token] = 5.0
    model.network.lm_head.weight = torch.nn.Parameter(head)
    model.network.config.tie_word_embeddings = False
    save_model(model, tokenizer, folder, dict(model.network.state_dict()))


@pytest.fixture
def served(tmp_path):
    """Address of `nexa serve` with a model that answers "5." to everything, also to being asked for a mark."""
    tiny_recipe(tmp_path / "recipe")
    save_speaker(tmp_path / "speaker", (tmp_path / "recipe" / "chat.jinja").read_text(), "5.")
    command = [sys.executable, "-m", "nexa", "serve", str(tmp_path / "speaker"), "--port", "0", "--name", "speaker"]
    environment = {**os.environ, "NEXA_SERVE_API_KEY": "its key", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        line = server.stdout.readline()
        assert "serving speaker at http://" in line
        yield line.split(" at ")[1].split()[0]
        server.terminate()
        server.wait(timeout=60)


def test_a_served_teacher_writes_marks_and_is_learned_from(served, tmp_path, monkeypatch, capsys):
    """Answers pass filter and judge; those cut off are left out; a wrong key is named; sft trains on the rows."""
    from ruamel.yaml import YAML

    recipe = tiny_recipe(tmp_path / "recipe", {"data.max_documents": 3})
    with (tmp_path / "r.yaml").open("w") as stream:
        YAML().dump(recipe.model_dump(mode="json", exclude_defaults=True), stream)
    rows = tmp_path / "rows.jsonl"
    asked = ["distill", "text", str(tmp_path / "r.yaml"), f"distill.text.endpoint={served}"]
    asked += ["distill.text.endpoint_model=speaker", "distill.text.judge=true", "distill.text.retries=0"]
    monkeypatch.setenv("OPENAI_API_KEY", "another key")
    assert main([*asked, "--output", str(rows)]) == 2
    assert "401" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "its key")
    short = tmp_path / "short.jsonl"
    assert main([*asked, "--output", str(short), "distill.text.max_new_tokens=1", "distill.text.attempts=2"]) == 0
    assert "left out: 3 cut off" in capsys.readouterr().out
    assert main([*asked, "--output", str(rows)]) == 0
    assert "3 rows of 3 prompts, 6 requests" in capsys.readouterr().out
    written = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    assert [turns[-1] for turns in written] == [{"role": "assistant", "content": "5."}] * 3
    student = tiny_recipe(tmp_path / "student", {"data.remote_uri": str(rows), "training.max_steps": 1})
    module = load_data_module(student)
    module.prepare_data()
    module.setup()
    assert TrainingEngine(student, load_task(student, module)).run().metrics["loss"] > 0


def test_a_journal_whose_first_line_is_torn_is_named(tmp_path, teacher, capsys):
    """And nothing is written over it."""
    from nexa.errors import UserError
    from nexa_distill.writing import JOURNAL, write_text

    journal = tmp_path / f"rows.jsonl{JOURNAL}"
    journal.write_text('{"teacher": "x", "revi')
    with pytest.raises(UserError, match="is no journal"):
        write_text(tiny_recipe(tmp_path / "recipe", {"distill.teacher": str(teacher)}), tmp_path / "rows.jsonl")
    assert journal.read_text() == '{"teacher": "x", "revi'
