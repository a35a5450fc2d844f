"""`TrainingConfig`: a flat view of the recipe, its files and its presets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nexa.errors import RecipeError, UserError
from nexa.recipe.load import load_recipe
from nexa.recipe.views import known_key
from nexa_torch import TrainingConfig, TrainingMode, get_pretraining_config, get_qlora_config, load_training_config

NAMED: dict[str, Any] = {"model_name": "org/model", "dataset": "/data/rows.jsonl"}
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no settings of the person who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def test_every_field_stands_for_a_recipe_key_and_has_its_default() -> None:
    recipe = TrainingConfig(**NAMED).to_recipe()
    for item in fields(TrainingConfig):
        if "key" in item.metadata:
            assert known_key(item.metadata["key"])
    assert recipe == TrainingConfig(**NAMED, **{}).to_recipe()
    assert recipe.optimizer.lr == TrainingConfig().learning_rate
    assert recipe.training.microbatch_size_per_gpu == TrainingConfig().batch_size


@pytest.mark.parametrize(
    ("mode", "method", "adapter"),
    [
        ("FULL_FINETUNE", "sft", None),
        ("LORA", "sft", "lora"),
        ("qlora", "sft", "qlora"),
        (TrainingMode.PRETRAINING, "pretrain", None),
    ],
)
def test_training_modes(mode: Any, method: str, adapter: str | None) -> None:
    config = TrainingConfig(training_mode=mode, gpus_per_node=0, **NAMED)
    recipe = config.to_recipe()
    assert (recipe.method, recipe.adapter and recipe.adapter.type) == (method, adapter)
    assert TrainingConfig.from_recipe(recipe) == config


@pytest.mark.parametrize(
    "name", ["quickstart", "pretrain-shakespeare", "falcon3-qlora", "v1", "v2", "v3", "regression"]
)
def test_shipped_recipes_survive_the_way_there_and_back(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml").recipe
    flat = TrainingConfig.from_recipe(recipe)
    assert flat.to_recipe() == recipe
    assert TrainingConfig.from_recipe(flat.to_recipe()) == flat


def test_schedules_by_both_names() -> None:
    for name in ("cosine", "cosine_warmup"):
        config = TrainingConfig(scheduler=name, **NAMED)
        assert (config.scheduler, config.to_recipe().optimizer.scheduler.name) == ("cosine", "cosine_warmup")
    assert TrainingConfig(scheduler="cosine_with_restarts", **NAMED).to_recipe().optimizer.scheduler.name == (
        "cosine_with_restarts"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training_mode": "QLOR"}, "did you mean QLORA"),
        ({"precision": "fp8"}, r"training.precision: must be .*\[precision\]"),
        ({"learning_rate": "fast"}, r"optimizer.lr: must be a number.*\[learning_rate\]"),
        ({"lora_r": 8}, "lora_r needs an adapter"),
        ({"training_mode": "LORA", "lora_r": 0}, "adapter.rank"),
        ({"overrides": {"data.pakcing": False}}, "did you mean data.packing"),
        ({"batch_size": 2.5, "seed": -1}, "(?s)microbatch.*seed"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingConfig(**values)


def test_overrides_reach_every_key() -> None:
    overrides = {"data.train_on": "all", "torch.loss_chunk": 64, "meta.mine": 1}
    recipe = TrainingConfig(**NAMED, overrides=overrides).to_recipe()
    assert (recipe.data.train_on, recipe.plugin_options["torch"]["loss_chunk"], recipe.meta) == ("all", 64, {"mine": 1})
    assert TrainingConfig.from_recipe(recipe).to_recipe() == recipe


def test_a_file_of_its_own_fields(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    file = folder / "train_config.yaml"
    file.write_text(
        "training_mode: LORA\nmodel_name: ./model\ndataset: rows.jsonl\nlearning_rate: 2e-4\nscheduler: cosine\n"
        "optimizer: adamw\nlora_r: 4\noverrides:\n  data.packing: false\n"
    )
    config = load_training_config(file)
    recipe = config.to_recipe()
    assert recipe.model.name == str(folder / "model")
    assert recipe.data.remote_uri == str(folder / "rows.jsonl")
    assert (recipe.adapter and recipe.adapter.rank, recipe.optimizer.lr, recipe.data.packing) == (4, 2e-4, False)


def test_a_file_that_is_a_recipe_or_a_part_of_one(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "quickstart.yaml").recipe
    assert load_training_config(RECIPES / "quickstart.yaml").to_recipe() == recipe
    (tmp_path / "part.yaml").write_text("optimizer: {lr: 0.5}\ntraining: {epochs: 2}\n")
    part = load_training_config("part.yaml")
    assert (part.learning_rate, part.num_epochs, part.model_name) == (0.5, 2, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leraning_rate: 1\n", "train.yaml:1:1: leraning_rate: unknown setting .did you mean 'learning_rate'"),
        ("per_device_train_batch_size: 1\n", "did you mean 'batch_size'"),
        ("seed: 1\nlearning_rate: fast\n", "train.yaml:2:16: optimizer.lr: must be a number"),
        ("- 1\n", "must be a mapping"),
        ("seed: [\n", "train.yaml:"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_training_config("train.yaml")


def test_a_missing_file() -> None:
    with pytest.raises(UserError, match=r"there is no training config missing\.yaml"):
        load_training_config("missing.yaml")


def test_presets_are_complete_recipes_and_take_changes() -> None:
    tuned = get_qlora_config("org/model", dataset="hf:org/rows", learning_rate=1e-4).to_recipe()
    assert tuned.adapter is not None
    assert (tuned.adapter.type, tuned.optimizer.lr, tuned.cluster.gpus_per_node) == ("qlora", 1e-4, 1)
    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 2, "tokenizer": "bytes"}
    pretrained = get_pretraining_config("llama", dataset="/text.txt", max_steps=500, **sizes).to_recipe()
    assert (pretrained.method, pretrained.optimizer.scheduler.warmup_steps) == ("pretrain", 50)
    assert get_pretraining_config("llama").warmup_steps == 2000
    with pytest.raises(TypeError):
        get_qlora_config("org/model", learnin_rate=1)
