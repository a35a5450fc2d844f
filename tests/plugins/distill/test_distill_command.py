"""`nexa distill` and `nexa.distill_teacher` from the outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import nexa
from nexa.cli.main import main
from nexa.distilled import find_dataset
from nexa.errors import UserError
from nexa.stores import open_store
from nexa.testing.recipes import tiny_recipe


@pytest.fixture
def recipe_file(teacher, tmp_path):
    """A recipe in a file, with held-out rows."""
    more = {"distill.teacher": str(teacher), "data.validation.fraction": 0.2, "distill.capture.processes": 1}
    document = tiny_recipe(tmp_path / "recipe", more).model_dump(mode="json", exclude_defaults=True)
    with (tmp_path / "r.yaml").open("w") as stream:
        YAML().dump({"method": "sft", **document}, stream)
    return tmp_path / "r.yaml"


def test_a_teacher_is_captured_shown_verified_and_exported(recipe_file, tmp_path, capsys):
    """Each command's output names what it did."""
    out = tmp_path / "out"
    assert main(["distill", "capture", str(recipe_file), "--output", str(out), "--dry-run"]) == 0
    assert "predictions, about" in capsys.readouterr().out
    assert not out.exists()
    assert main(["distill", "capture", str(recipe_file), "--output", str(out)]) == 0
    assert "bytes a prediction" in capsys.readouterr().out
    assert main(["distill", "show", str(out), "--json"]) == 0
    index = json.loads(capsys.readouterr().out)
    assert main(["distill", "verify", str(out)]) == 0
    assert main(["distill", "export", str(out), "--format", "axolotl", "--output", str(tmp_path / "kd.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "kd.jsonl").read_text().splitlines()]
    row = rows[0]
    assert len({len(row[name]) for name in row}) == 1
    assert sum(mask[0] for row in rows for mask in row["target_mask"]) == index["recorded"]
    first = next(t for t, mask in enumerate(row["target_mask"]) if mask[0])
    # What is predicted at t is the label of t + 1.
    assert row["labels"][first + 1] == row["input_ids"][first + 1]
    assert row["labels"][first] == -100
    assert main(["distill", "export", str(out), "--format", "json", "--output", str(tmp_path / "p.jsonl")]) == 0
    probabilities = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert sum(probabilities["teacher_probs"]) == pytest.approx(1, abs=1e-3)
    capsys.readouterr()
    os.mkfifo(tmp_path / "pipe")
    assert main(["distill", "export", str(out), "--format", "json", "--output", str(tmp_path / "pipe")]) == 2
    assert "no regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    (out / index["shards"][0]["file"]).unlink()
    assert main(["distill", "verify", str(out)]) == 1
    assert "is missing" in capsys.readouterr().err


def test_a_student_is_put_beside_its_teacher(recipe_file, tmp_path, teacher, capsys):
    """A student that is the teacher has no divergence and agrees everywhere; the plot is drawn."""
    plot = tmp_path / "plot.svg"
    command = ["distill", "compare", str(recipe_file), "--student", str(teacher)]
    assert main([*command, "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["agreement"] == 1.0
    assert found["student_loss"] == found["teacher_loss"]
    assert sum(found["student_calibration"]["counts"]) == found["positions"]
    assert plot.read_text().startswith("<svg")
    assert main(command) == 0
    assert "KL(teacher ‖ student) 0.0000 nats" in capsys.readouterr().out


def test_distill_teacher_returns_the_index(recipe_file, tmp_path, teacher):
    """The Python API with a checkpoint of its own."""
    index = nexa.distill_teacher(recipe_file, teacher, tmp_path / "out")
    assert index == tmp_path / "out" / "distilled_dataset.json"
    assert json.loads(index.read_text())["teacher"]["name"] == str(teacher)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["capture", "RECIPE", "--output", "OUT", "distill.teacher=/none/at-all"], "does not exist"),
        (["capture", "RECIPE", "--output", "OUT", "distill.distiller=logitz"], "did you mean 'logits'"),
        (["commit", "OUT"], "has no distilled_dataset.json"),
        (["show", "OUT"], "is missing or no JSON"),
        (["compare", "RECIPE", "--student", "TEACHER", "data.validation.fraction=null"], "holds nothing out"),
    ],
)
def test_misuse_ends_with_2_and_one_message(recipe_file, tmp_path, teacher, arguments, message, capsys):
    """No traceback."""
    places = {"RECIPE": str(recipe_file), "OUT": str(tmp_path / "none"), "TEACHER": str(teacher)}
    assert main(["distill", *(places.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_capture_goes_into_the_artifact_store(recipe_file, tmp_path, capsys, monkeypatch):
    """Moved, not copied; found by name, URI and as the latest; made once; trained on; kept while students need it."""
    monkeypatch.setenv("NEXA_STORE_URI", str(tmp_path / "recipe" / "artifacts"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds no dataset"):
        find_dataset("latest")
    assert main(["distill", "capture", str(recipe_file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    name, index = said["artifact"], Path(said["index"])
    assert name.startswith("datasets/tiny/")
    assert index.stat().st_nlink == 1
    assert not list(tmp_path.rglob(".captures/*"))
    assert main(["distill", "capture", str(recipe_file)]) == 0
    assert f"captured before: {name}" in capsys.readouterr().out
    store = open_store()
    (artifact,) = store.list("datasets")
    assert artifact.meta.kind == "distilled-dataset"
    assert store.manifest(name)["lineage"]["teacher"]["sha256"]
    for reference in ("latest", name, name[:-3], artifact.meta.uri, str(index)):
        assert main(["distill", "show", reference]) == 0
    assert main(["artifacts", "verify", name]) == 0
    assert "whole" in capsys.readouterr().out
    run = ["method=distill", "distill.dataset=latest", "training.max_steps=1", "data.validation.fraction=0.2"]
    meta = nexa.run_training_job(recipe_file, run)
    assert artifact.meta.hash in meta.inputs
    assert main(["artifacts", "gc", name]) == 0
    assert f"protected  {name}" in capsys.readouterr().err
    pinned = json.loads(next((tmp_path / "runs").glob("*/plan.json")).read_text())["recipe"]["distill"]["dataset"]
    assert pinned == str(index.parent)


def test_a_folder_is_moved_into_the_store(recipe_file, tmp_path, capsys, monkeypatch):
    """A second capture of the same has the same name, and stays what it is."""
    monkeypatch.setenv("NEXA_STORE_URI", str(tmp_path / "store"))
    names = set()
    for _ in range(2):
        folder = tmp_path / "mine"
        assert main(["distill", "capture", str(recipe_file), "--output", str(folder)]) == 0
        capsys.readouterr()
        assert main(["distill", "commit", str(folder), "--name", "x"]) == 0
        names.add(capsys.readouterr().out)
        assert not folder.exists()
    assert len(names) == 1
