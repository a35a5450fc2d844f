"""`nexa recipe` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nexa.cli.main import main
from nexa.recipe.load import load_recipe

from .conftest import WriteRecipe


def test_list_shows_every_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    shown = capsys.readouterr().out
    for name in ("quickstart", "v1", "v2", "v3", "pretrain-shakespeare", "falcon3-qlora"):
        assert f"\n{name} " in shown
    assert main(["recipe", "list", "--json", "--tag", "mode"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["v1", "v2", "v3"]


def test_show_prints_a_recipe_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipe", "show", "v1", "training.seed=3"]) == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    assert load_recipe(again).recipe == load_recipe("v1", overrides=["training.seed=3"]).recipe


def test_show_origin_names_the_place_of_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "v1", "training.seed=3", "--origin"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["training.seed"][1:] == ["3", "override"]
    assert lines["training.max_steps"][1:3] == ["20", "recipe"]
    assert "v1.yaml:" in lines["training.max_steps"][3]
    assert lines["optimizer.lr"][2] == "extended"
    assert lines["optimizer.eps"][-1] == "default"
    assert main(["recipe", "show", "v1", "--origin", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["training.max_steps"]["value"] == 20
    assert document["training.max_steps"]["origin"]["kind"] == "recipe"


def test_show_refuses_with_code_2_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "v1", "training.max_step=3"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "did you mean 'max_steps'" in shown.err
    assert "Traceback" not in shown.err


def test_validate_checks_all_and_reports_all(
    capsys: pytest.CaptureFixture[str], write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    good = write_recipe(name="good.yaml")
    bad = write_recipe("training: {max_step: 1, seed: x}\n", name="bad.yaml")
    assert main(["recipe", "validate", str(good), "v3"]) == 0
    assert capsys.readouterr().out == f"{good}: ok\nv3: ok\n"
    assert main(["recipe", "validate", str(bad), str(good), str(tmp_path / "none.yaml")]) == 2
    shown = capsys.readouterr()
    assert shown.out == f"{bad}: 2 problems\n{good}: ok\n{tmp_path / 'none.yaml'}: 1 problem\n"
    assert shown.err.count(f"{bad}:6:") == 2
    assert main(["recipe", "validate", "--json", str(bad)]) == 2
    problems = json.loads(capsys.readouterr().out)[0]["problems"]
    assert problems[0]["path"] == "training.max_step"
    assert (problems[0]["line"], problems[0]["column"]) == (6, 12)


def test_schema_covers_plugins_and_allows_what_files_may_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"method", "extends", "torch", "wandb", "tensorboard"} <= set(schema["properties"])
    assert "plugin_options" not in schema["properties"]
    assert schema["additionalProperties"] is False
    training = schema["$defs"]["TrainingSection"]
    assert training["additionalProperties"] is False
    assert training["properties"]["max_steps"]["description"] == "Optimizer steps to train. Excludes epochs."
    assert {"type": "string"} in schema["$defs"]["OptimizerSection"]["properties"]["scheduler"]["anyOf"]


@pytest.mark.parametrize("source", ["quickstart", "v1", "v3", "pretrain-shakespeare", "falcon3-qlora"])
def test_new_writes_a_commented_recipe_that_is_the_same(source: str, tmp_path: Path) -> None:
    assert main(["recipe", "new", "mine", "--from", source]) == 0
    path = tmp_path / "work" / "recipes" / "mine.yaml"
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=.nexa/recipe.schema.json\n")
    assert "# " in text.partition("\n\n")[2]
    assert json.loads((path.parent / ".nexa" / "recipe.schema.json").read_text())["title"] == "Nexa recipe"
    assert load_recipe("mine").recipe == load_recipe(source).recipe


def test_new_keeps_paths_relative_inside_one_project(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    source = write_recipe("artifacts: {store_uri: '../store'}  # kept\n", name="work/recipes/source.yaml")
    assert main(["recipe", "new", "recipes/deep/copy", "--from", str(source)]) == 0
    copy = tmp_path / "work" / "recipes" / "deep" / "copy.yaml"
    text = copy.read_text()
    assert 'remote_uri: "../rows.jsonl"' in text
    assert '{store_uri: "../../store"}  # kept' in text
    assert load_recipe(copy).recipe == load_recipe(source).recipe


def test_new_overwrites_nothing(capsys: pytest.CaptureFixture[str], write_recipe: WriteRecipe) -> None:
    path = write_recipe()
    before = path.read_text()
    assert main(["recipe", "new", str(path), "--from", "v1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == before


def test_help_and_list_need_no_schema() -> None:
    for arguments in (["recipe", "--help"], ["recipe", "list", "--help"]):
        script = f"import sys; from nexa.cli.main import main; main({arguments!r}); sys.exit('pydantic' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
        assert done.returncode == 0
