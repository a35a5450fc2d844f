"""The kit itself: its files are the same everywhere, its reference is right, and its checks find what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nexa.cli.main import main
from nexa.conformance import data, model
from nexa.conformance.event_schema import schema_faults
from nexa.conformance.mutations import mutations
from nexa.conformance.reference import load_reference
from nexa.recipe.schema import Recipe
from nexa.settings_report import CORE_FIELDS
from nexa.testing.recipes import tiny_recipe

MODEL_SHA256 = "2f68bc4a5a114652682d3b7f85c0a0b3dabae11bab523f4ae7d1cc6f41f2d642"
START = {"ts": 1.0, "type": "start", "attempt": 1, "rank": 0, "world_size": 1, "host": "a", "pid": 1}


def test_the_model_is_the_same_on_every_machine(tmp_path: Path) -> None:
    content = (model.write_model(tmp_path) / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == MODEL_SHA256


def test_documents_fill_packed_rows_in_pairs() -> None:
    lengths = [len(tokens) for tokens, _ in load_reference().documents]
    assert tuple(lengths) == data.LENGTHS
    assert sum(lengths) == data.PACKED_ROWS * model.MAX_SEQ_LEN


def test_the_reference_is_what_a_plain_implementation_finds(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made = tmp_path / "reference.json"
    script = Path(__file__).with_name("make_reference.py")
    subprocess.run([sys.executable, str(script), str(made)], check=True)
    found, kept = json.loads(made.read_text()), load_reference()
    assert [(tuple(row["tokens"]), tuple(map(bool, row["trained"]))) for row in found["documents"]] == kept.documents
    for name in ("loss", "grad_norm", "lr"):
        assert found[name] == pytest.approx(getattr(kept, name), rel=1e-8)


def test_every_field_that_a_backend_answers_for_is_changed(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    made = list(mutations(recipe))
    assert {mutation.path for mutation in made} == set(Recipe.leaf_paths()) - CORE_FIELDS
    assert all(mutation.base.document() != mutation.changed.document() for mutation in made)


def test_every_choice_of_a_field_is_tried(tmp_path: Path) -> None:
    tried = {mutation.value for mutation in mutations(tiny_recipe(tmp_path)) if mutation.path == "training.precision"}
    assert tried == {"tf32", "bf16", "fp16"}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({**START, "type": "begin"}, "the type is none of"),
        ({**START, "ts": 0.5}, "no time at or after"),
        ({key: value for key, value in START.items() if key != "pid"}, "pid is None, not int"),
        ({"ts": 2.0, "type": "metrics", "step": 1, "values": {"loss": "low"}}, "values.loss is 'low', not a number"),
        ({"ts": 2.0, "type": "end", "state": "completed", "step": "6", "message": ""}, "step is '6', not int or null"),
    ],
)
def test_a_faulty_event_is_named(record: dict[str, object], fault: str) -> None:
    assert list(schema_faults([START])) == []
    (found,) = schema_faults([START, record])
    assert found.startswith("event 2")
    assert fault in found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["torsh"], "did you mean 'torch'?"),
        (["torch", "--only", "token"], "did you mean 'tokens'?"),
        (["torch", "--only", "tokens", "trainin.seed=1"], "'trainin' is neither a recipe key nor a plugin"),
        (["torch", "--only", "tokens", "training.seed=x"], "training.seed"),
        (["torch", "--only", "tokens", "training.seed"], "key.path=value"),
        (["torch", "--only", "tokens", "--keep", "."], "exists"),
    ],
)
def test_what_is_typed_wrong_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["conformance", *arguments]) == 2
    assert words in capsys.readouterr().err
