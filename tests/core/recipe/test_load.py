"""Loading: layers and their precedence, origins, resets, paths, plugin sections, names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexa.errors import RecipeError, UserError
from nexa.recipe.load import OriginKind, load_recipe
from nexa.recipe.schema import Recipe

from .conftest import WriteRecipe


def _problems(path: Path, **options: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, **options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def test_each_layer_beats_the_next_and_origins_say_which(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe("training: {max_steps: 1, seed: 1, log_every_steps: 1, save_every_steps: 1}\n", name="top.yaml")
    write_recipe("extends: ./top.yaml\ntraining: {seed: 2, log_every_steps: 2, save_every_steps: 2}\n", name="mid.yaml")
    path = write_recipe("extends: mid\ntraining: {log_every_steps: 3, save_every_steps: 3}\n", base="")
    monkeypatch.setenv("NEXA_STORE_URI", "store")
    loaded = load_recipe(path, overrides=["training.save_every_steps=4"], flags={"run.name": "named"})
    training = loaded.recipe.training
    assert (training.max_steps, training.seed, training.log_every_steps, training.save_every_steps) == (1, 2, 3, 4)
    kinds = {key: origin.kind for key, origin in loaded.origins.items()}
    assert kinds["run.name"] is OriginKind.FLAG
    assert kinds["training.save_every_steps"] is OriginKind.OVERRIDE
    assert kinds["training.log_every_steps"] is OriginKind.RECIPE
    assert kinds["training.seed"] is OriginKind.EXTENDED
    assert kinds["artifacts.store_uri"] is OriginKind.SETTING
    assert kinds["optimizer.lr"] is OriginKind.DEFAULT
    origin = loaded.origins["training.seed"]
    assert (Path(str(origin.file)).name, origin.line, origin.column) == ("mid.yaml", 7, 18)
    assert loaded.origins["artifacts.store_uri"].file == "$NEXA_STORE_URI"
    assert [file.name for file in loaded.files] == ["recipe.yaml", "mid.yaml", "top.yaml"]
    assert loaded.name == "recipe"
    assert loaded.recipe.extends is None


def test_flags_beat_overrides(write_recipe: WriteRecipe) -> None:
    loaded = load_recipe(write_recipe(), overrides=["training.seed=1"], flags={"training.seed": 2})
    assert loaded.recipe.training.seed == 2


def test_mappings_merge_and_lists_replace(write_recipe: WriteRecipe) -> None:
    write_recipe("samples: {prompts: [a, b], max_new_tokens: 3}\nmeta: {x: {y: 1, z: 2}}\n", name="parent.yaml")
    path = write_recipe("extends: parent\nsamples: {prompts: [c]}\nmeta: {x: {z: 3}}\n", base="")
    recipe = load_recipe(path).recipe
    assert recipe.samples.prompts == ["c"]
    assert recipe.samples.max_new_tokens == 3
    assert recipe.meta == {"x": {"y": 1, "z": 3}}


def test_null_resets_or_is_the_value(write_recipe: WriteRecipe) -> None:
    text = "training: {seed: 5, max_grad_norm: 3.0, epochs: 2}\nadapter: {rank: 4}\nsamples: {prompts: [a]}\n"
    write_recipe(text, name="parent.yaml")
    child = "extends: parent\ntraining: {seed: null, max_grad_norm: null, epochs: ~}\nadapter: null\nsamples: null\n"
    recipe = load_recipe(write_recipe(child, base="")).recipe
    assert recipe.training.seed == 42
    assert recipe.training.max_grad_norm is None
    assert recipe.training.epochs is None
    assert recipe.adapter is None
    assert recipe.samples.prompts == []


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=1e-5", "optimizer.lr", 1e-5),
        ("training.packing_note=x", None, None),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", [0.8, 0.9]),
        ("meta={a: {b: 1}}", "meta.a.b", 1),
        ("run.name='7'", "run.name", "7"),
        ("data.packing=false", "data.packing", False),
        ("adapter.rank=8", "adapter.rank", 8),
        ("training.max_grad_norm=", "training.max_grad_norm", None),
        ("data.remote_uri=s3://b/k=v", "data.remote_uri", "s3://b/k=v"),
        ("samples.prompts+=one", "samples.prompts", ["one"]),
        ("samples.prompts+=[one, two]", "samples.prompts", ["one", "two"]),
        ("optimizer.scheduler=linear", "optimizer.scheduler.name", "linear"),
    ],
)
def test_overrides_are_yaml_values(write_recipe: WriteRecipe, override: str, key: str | None, value: object) -> None:
    path = write_recipe()
    if key is None:
        assert "command line: training.packing_note: unknown key" in _problems(path, overrides=[override])[0]
        return
    found: object = load_recipe(path, overrides=[override]).recipe.document()
    for part in key.split("."):
        found = found[part]  # type: ignore[index]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "override", ["nothing", "=1", "a..b=1", "a b=1", "x=[1", "x=@y", "x=a: b", "x=- a", "x=#y", "x=!!int 1", "x=*y"]
)
def test_an_override_that_can_not_be_read_is_named(write_recipe: WriteRecipe, override: str) -> None:
    problems = _problems(write_recipe("trainig: {}\n"), overrides=[override])
    assert any(problem.startswith("command line: ") for problem in problems)
    assert any("trainig" in problem for problem in problems), "the file's own problems are reported too"


def test_appending_keeps_what_is_there_and_each_value_once(write_recipe: WriteRecipe) -> None:
    path = write_recipe("samples: {prompts: [a]}\n")
    loaded = load_recipe(path, overrides=["samples.prompts+=b"], flags={"samples.prompts+": ["a", "c"]})
    assert loaded.recipe.samples.prompts == ["a", "b", "c"]


def test_paths_count_from_where_they_are_written(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    write_recipe("data: {validation: {remote_uri: eval.jsonl}}\n", base="", name="lib/parent.yaml")
    path = write_recipe("extends: lib/parent.yaml\nmodel: {chat_template: ../t.jinja}\n", name="recipe.yaml", base="")
    path.write_text(path.read_text() + "method: sft\ndata: {remote_uri: rows.jsonl}\n")
    recipe = load_recipe(
        path, overrides=["model.name=./m"], flags={"data.local_cache_root": "cache", "artifacts.store_uri": "s p"}
    ).recipe
    assert recipe.data.remote_uri == str(tmp_path / "rows.jsonl")
    assert recipe.data.validation.remote_uri == str(tmp_path / "lib" / "eval.jsonl")
    assert recipe.model.chat_template == str(tmp_path.parent / "t.jinja")
    assert recipe.model.name == str(tmp_path / "work" / "m")
    assert recipe.data.local_cache_root == str(tmp_path / "work" / "cache")
    assert recipe.artifacts.store_uri == f"file://{tmp_path}/work/s%20p"


@pytest.mark.parametrize("uri", ["hf:org/set", "pkg:package/file.jsonl", "s3://bucket/x", "/abs/x.jsonl"])
def test_uris_and_absolute_paths_stay(write_recipe: WriteRecipe, uri: str) -> None:
    assert load_recipe(write_recipe(), overrides=[f"data.remote_uri={uri}"]).recipe.data.remote_uri == uri


def test_a_hub_id_is_a_path_only_where_the_folder_exists(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    path = write_recipe()
    assert load_recipe(path).recipe.model.name == "org/model"
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert load_recipe(path).recipe.model.name == str(tmp_path / "org" / "model")


def test_a_circle_names_its_files(write_recipe: WriteRecipe) -> None:
    write_recipe("extends: ./b.yaml\n", name="a.yaml")
    path = write_recipe("extends: ./a.yaml\n", name="b.yaml")
    assert "circle: b.yaml → a.yaml → b.yaml" in _problems(path)[0]


def test_a_missing_parent_is_named_where_it_is_asked_for(write_recipe: WriteRecipe) -> None:
    path = write_recipe("extends: v33\n")
    problem = _problems(path)[0]
    assert problem.startswith(f"{path}:6:10: extends: there is no recipe 'v33'")
    assert "did you mean 'v3'" in problem


def test_a_problem_of_an_extended_file_names_that_file(write_recipe: WriteRecipe) -> None:
    parent = write_recipe("training: {max_step: 1}\n", name="parent.yaml")
    path = write_recipe("extends: parent\n", base="")
    assert _problems(path)[0].startswith(f"{parent}:6:12: training.max_step: unknown key")


def test_plugin_sections_are_validated_by_their_plugins(write_recipe: WriteRecipe) -> None:
    loaded = load_recipe(write_recipe("wandb: {project: mine}\n"))
    assert loaded.recipe.plugin_options["wandb"]["project"] == "mine"
    document = loaded.recipe.document()
    assert document["wandb"]["project"] == "mine"
    assert Recipe.from_document(json.loads(json.dumps(document))) == loaded.recipe
    path = write_recipe("wandb: {projekt: mine}\n")
    assert _problems(path) == [f"{path}:6:9: wandb.projekt: unknown key (did you mean 'project'?)"]


def test_names_are_checked_against_what_is_installed(write_recipe: WriteRecipe) -> None:
    text = "backend: torhc\nscheduler: lokal\ntracking: {observers: [wandb, tensorbord]}\nartifacts: {store_uri: 'x9://a'}\n"
    problems = "\n".join(_problems(write_recipe(text)))
    assert ":6:10: backend: there is no backend 'torhc' (did you mean 'torch'?" in problems
    assert ":7:12: scheduler: there is no scheduler 'lokal' (did you mean 'local'?" in problems
    assert ":8:31: tracking.observers.1: there is no observer 'tensorbord' (did you mean 'tensorboard'?" in problems
    assert "artifacts.store_uri: there is no artifact-store 'x9' (installed: " in problems


def test_a_method_the_backend_does_not_train_is_refused(write_recipe: WriteRecipe) -> None:
    problems = _problems(write_recipe("", base="method: pretrian\nmodel: {name: org/m}\ndata: {remote_uri: x}\n"))
    assert "backend 'torch' does not train 'pretrian' (did you mean 'pretrain'?)" in problems[0]


def test_settings_give_scheduler_and_plugin_defaults(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    settings = tmp_path / "work" / "nexa.toml"
    settings.write_text('[defaults.wandb]\nproject = "team"\nentity = "us"\n')
    loaded = load_recipe(write_recipe("wandb: {project: mine}\n"))
    assert loaded.recipe.plugin_options["wandb"]["project"] == "mine"
    assert loaded.recipe.plugin_options["wandb"]["entity"] == "us"
    assert loaded.origins["wandb.entity"].kind is OriginKind.SETTING
    assert loaded.origins["wandb.entity"].file == str(settings)


def test_a_resolved_recipe_loads_as_itself(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    from nexa.recipe.render import resolved_yaml

    first = load_recipe(write_recipe("meta: {a: [1, {b: null}]}\ntorch: {loss_chunk: 64}\n"))
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(first), encoding="utf-8")
    assert load_recipe(again).recipe == first.recipe


def test_no_recipe_is_a_user_error_with_the_choices() -> None:
    with pytest.raises(UserError, match="there is no recipe 'quickstrat'") as caught:
        load_recipe("quickstrat")
    assert "did you mean 'quickstart'" in str(caught.value.hint)
    with pytest.raises(UserError, match="there is no recipe file"):
        load_recipe("missing.yaml")
