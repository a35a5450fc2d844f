"""A recipe as an Axolotl configuration, and an Axolotl configuration as a recipe. Needs no Axolotl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexa.backend import Answer
from nexa.errors import RecipeError
from nexa.plugins import get_host
from nexa.recipe.imports import import_file, tree_of
from nexa.recipe.load import resolve_tree
from nexa.recipe.schema import Recipe
from nexa.testing.recipes import tiny_recipe
from nexa_axolotl.checks import find_problems
from nexa_axolotl.layout import Layout
from nexa_axolotl.render import Inputs, expected_inputs, render
from nexa_axolotl.settings import answer_settings
from nexa_axolotl.yaml_text import to_yaml

LAYOUT = Layout(Path("/runs/x"))


def rendered(folder: Path, **overrides: Any) -> dict[str, Any]:
    """The configuration of the tiny recipe with overrides, dots written as two underscores."""
    recipe = make(folder, **overrides)
    return render(recipe, LAYOUT, expected_inputs(recipe, LAYOUT))


def make(folder: Path, **overrides: Any) -> Recipe:
    return tiny_recipe(folder, {"backend": "axolotl", **{key.replace("__", "."): v for key, v in overrides.items()}})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"data__packing": False}, {"sample_packing": False}),
        ({"data__packing": True}, {"sample_packing": True, "eval_sample_packing": True}),
        ({"training__max_grad_norm": None}, {"max_grad_norm": 0.0}),
        ({"training__global_batch_size": 8}, {"micro_batch_size": 2, "gradient_accumulation_steps": 4}),
        ({"training__precision": "bf16"}, {"bf16": True, "fp16": False, "tf32": False}),
        ({"optimizer__betas": [0.8, 0.9]}, {"adam_beta1": 0.8, "adam_beta2": 0.9}),
        ({}, {"adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "optimizer": "adamw_torch"}),
        (
            {"optimizer__scheduler__name": "wsd", "optimizer__scheduler__decay_steps": 2},
            {
                "lr_scheduler": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 2, "decay_type": "linear", "min_lr_ratio": 0.0},
            },
        ),
        ({"optimizer__scheduler__min_lr_ratio": 0.1}, {"lr_scheduler": "cosine", "cosine_min_lr_ratio": 0.1}),
        (
            {"adapter__type": "lora", "adapter__rank": 4, "adapter__use_dora": True},
            {"adapter": "lora", "lora_r": 4, "lora_alpha": 32, "lora_target_linear": True, "peft_use_dora": True},
        ),
        ({"adapter__target_modules": ["q_proj"]}, {"lora_target_modules": ["q_proj"], "lora_mlp_kernel": False}),
        (
            {"adapter__type": "qlora", "cluster__gpus_per_node": 1},
            {"adapter": "qlora", "load_in_4bit": True},
        ),
        (
            {"distributed__strategy": "fsdp", "cluster__gpus_per_node": 2, "distributed__cpu_offload": True},
            {"fsdp_version": 2, "ddp_timeout": 600},
        ),
        ({"axolotl.deepspeed": "zero3.json"}, {"deepspeed": "zero3.json"}),
        ({"axolotl.warmup_ratio": 0.1}, {"warmup_ratio": 0.1}),
    ],
)
def test_recipes_in_axolotls_words(tmp_path: Path, overrides: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each neutral key becomes Axolotl's own, with nothing left to its defaults that the recipe says."""
    config = rendered(tmp_path, **overrides)
    assert {key: config.get(key) for key in expected} == expected


def test_an_own_key_takes_the_place_of_the_rendered_one(tmp_path: Path) -> None:
    """Keys that exclude one another never stand side by side, and null leaves a key to Axolotl."""
    config = rendered(tmp_path, **{"axolotl.warmup_ratio": 0.1, "axolotl.flash_attention": True, "axolotl.seed": None})
    assert not {"warmup_steps", "attn_implementation", "seed"} & set(config)
    sharded = {"distributed__strategy": "fsdp", "distributed__cpu_offload": True, "cluster__gpus_per_node": 2}
    sharding = rendered(tmp_path, **sharded, **{"axolotl.fsdp_config": {"state_dict_type": "X"}})["fsdp_config"]
    assert (sharding["offload_params"], sharding["state_dict_type"]) == (True, "X")
    own_data = rendered(tmp_path, **{"axolotl.datasets": [{"path": "a/b", "type": "alpaca"}]})
    assert own_data["datasets"] == [{"path": "a/b", "type": "alpaca"}]


def test_the_last_step_is_always_saved_and_evaluated(tmp_path: Path) -> None:
    """Without cadences only the last step is, as with every backend."""
    more = {"training__save_every_steps": None, "data__validation__fraction": 0.1}
    config = rendered(tmp_path, **more)
    assert (config["save_steps"], config["eval_steps"]) == (4, 4)


@pytest.mark.parametrize(
    ("overrides", "path", "word"),
    [
        ({"optimizer__scheduler__warmup_steps": 1}, "optimizer.scheduler.warmup_steps", "one of two"),
        ({"training__precision": "bf16"}, "training.precision", "on CPU"),
        ({"optimizer__name": "sophia"}, "optimizer.name", "no such optimizer"),
        ({"optimizer__name": "adamw_8bit"}, "optimizer.name", "needs a CUDA GPU"),
        ({"optimizer__scheduler__name": "plateau"}, "optimizer.scheduler.name", "no such schedule"),
        ({"training__measure_mfu": True}, "training.measure_mfu", "does not measure"),
        ({"adapter__alpha": 1.5}, "adapter.alpha", "whole numbers"),
        ({"data__streaming": True}, "data.streaming", "before the run"),
        ({"axolotl.datasets": [{"path": "x"}], "data__train_on": "all"}, "data.train_on", "its own data"),
    ],
)
def test_what_axolotl_can_not_do_is_refused(tmp_path: Path, overrides: dict[str, Any], path: str, word: str) -> None:
    """The reason says why, by the recipe's own key."""
    answer = next(each for each in answer_settings(make(tmp_path, **overrides)) if each.path == path)
    assert answer.answer is Answer.REFUSED
    assert word in answer.detail


def test_a_file_of_deepspeed_s_is_looked_for(tmp_path: Path) -> None:
    """Before the launch, since a run has another current folder."""

    def found(value: Any) -> list[str]:
        problems = find_problems(make(tmp_path, **{"axolotl.deepspeed": value}))
        return [problem.message for problem in problems if problem.path == "axolotl.deepspeed"]

    (tmp_path / "zero.json").write_text("{}")
    assert found("zero.json") == ["zero.json is no whole path"]
    assert found(str(tmp_path / "none.json")) == [f"there is no file {tmp_path / 'none.json'}"]
    assert found(str(tmp_path / "zero.json")) == found({"zero_optimization": {"stage": 2}}) == []


def test_every_field_is_answered_once(tmp_path: Path) -> None:
    """No field of the schema is left out."""
    answers = answer_settings(make(tmp_path))
    assert [answer.path for answer in answers] == list(Recipe.leaf_paths())
    assert all(answer.detail for answer in answers if answer.answer is not Answer.HONOURED)


def test_yaml_means_the_same_to_old_and_new_readers() -> None:
    """PyYAML, which Axolotl uses, reads YAML 1.1, where `no` is false and 1e-05 is text."""
    yaml = pytest.importorskip("yaml")
    document = {
        "word": "no",
        "empty": "",
        "number": 1e-05,
        "negative": -3e20,
        "plain": "a/b.c",
        "text": 'a: "b" #c\n',
        "digits": "0x10",
        "nested": {"on": [1, {"a": None, "b": [True, 1.5]}, []], "none": {}},
    }
    text = to_yaml(document)
    assert yaml.safe_load(text) == document
    from nexa.recipe.node import OriginKind
    from nexa.recipe.yaml import parse_yaml

    assert parse_yaml(text, kind=OriginKind.RECIPE).plain() == document


USER_FILE = """\
base_model: org/model
datasets:
  - path: org/data
    type: alpaca
val_set_size: 0.1
output_dir: ./out
adapter: lora
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules: [gate_proj, up_proj]
sequence_len: 2048
sample_packing: true
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_torch
adam_beta1: 0.9
adam_beta2: 0.999
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
flash_attention: true
warmup_ratio: 0.1
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.01
special_tokens:
  pad_token: "<|end|>"
"""
DECIDED = {"output_dir", "dataset_prepared_path", "save_total_limit", "save_only_model", "load_best_model_at_end"}
SAID_BY_NEXA = {"logging_steps"}


def import_text(folder: Path, text: str) -> Recipe:
    file = folder / "config.yml"
    file.write_text(text, encoding="utf-8")
    imported = import_file(file, get_host().spec("backend", "axolotl"))
    assert imported is not None
    return resolve_tree(tree_of(imported, file)).recipe


@pytest.mark.parametrize(
    "text",
    [
        USER_FILE,
        "base_model: org/m\ndatasets: [{path: org/d, type: completion}]\nlearning_rate: 1e-4\nmax_steps: 5\nseed: 3\n"
        "sequence_len: 64\nbf16: false\nfp16: false\ntf32: false\nwarmup_steps: 1\nlr_scheduler: one_cycle\n"
        "save_steps: 2\neval_steps: 0.5\n",
        "base_model: org/m\ndatasets: [{path: org/d, type: alpaca}]\nlearning_rate: 0.1\nsequence_len: 64\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 1\nnum_epochs: 2\nload_in_8bit: true\nadapter: lora\n"
        "lora_r: 8\nlora_alpha: 16\nlora_target_linear: true\noptimizer: paged_adamw_8bit\nlora_mlp_kernel: true\n",
    ],
)
def test_an_imported_file_renders_to_itself(tmp_path: Path, text: str) -> None:
    """Nothing is lost and nothing is added but what a run of Nexa decides."""
    from ruamel.yaml import YAML

    recipe = import_text(tmp_path, text)
    inputs = Inputs(base_model=recipe.model.name, row_length=recipe.model.max_seq_len or 0, held_out=False)
    config = render(recipe, LAYOUT, inputs)
    original = YAML(typ="safe").load(text)
    original = {key: float(value) if key == "learning_rate" else value for key, value in original.items()}
    defaults = {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "save_strategy": "epoch"}
    left = {key: value for key, value in config.items() if key not in DECIDED | SAID_BY_NEXA}
    kept = {key: value for key, value in original.items() if key not in DECIDED}
    assert left == {**{key: value for key, value in defaults.items() if key in left}, **kept}
    json.dumps(config)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("batch_size: 16", "config.yml:4:1: batch_size: a run of Nexa can't do this"),
        ("resume_from_checkpoint: x", "continue a run of Nexa"),
        ("lora_r: 8", "config.yml:4:9: lora_r: there is no adapter"),
        ("weight_decay: much", "config.yml:4:1: weight_decay: 'much' is no number"),
    ],
)
def test_keys_that_can_not_be_kept_are_refused_with_their_line(tmp_path: Path, line: str, said: str) -> None:
    """By name and place, never in silence."""
    with pytest.raises(RecipeError) as caught:
        import_text(tmp_path, f"base_model: a/b\ndatasets: [{{path: a/b, type: x}}]\nlearning_rate: 1.0\n{line}\n")
    assert said in str(caught.value)


def test_a_key_without_a_value_is_none(tmp_path: Path) -> None:
    """Public files list keys with nothing behind them, also such as Axolotl does not heed."""
    text = USER_FILE + "wandb_watch:\nfsdp_config:\nresume_from_checkpoint:\nlocal_rank:\n"
    own = import_text(tmp_path, text).plugin_options["axolotl"]
    assert own == import_text(tmp_path, USER_FILE).plugin_options["axolotl"]


def test_files_beside_the_file_are_found_from_the_run(tmp_path: Path) -> None:
    """Their paths become absolute; names that are no files here stay as they are."""
    for name in ("zero.json", "rows.jsonl"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model").mkdir()
    text = (
        "base_model: ./model\ndatasets: [{path: json, data_files: [rows.jsonl], type: alpaca}]\nlearning_rate: 1e-4\n"
    )
    recipe = import_text(tmp_path, f"{text}deepspeed: zero.json\n")
    own = recipe.plugin_options["axolotl"]
    assert recipe.model.name == str(tmp_path / "model")
    assert own["deepspeed"] == str(tmp_path / "zero.json")
    assert own["datasets"] == [{"path": "json", "data_files": [str(tmp_path / "rows.jsonl")], "type": "alpaca"}]


def test_old_names_of_sharding_settings_are_today_s(tmp_path: Path) -> None:
    """Axolotl drops the prefix itself, with a warning."""
    text = USER_FILE + "fsdp_version: 2\nfsdp_config:\n  fsdp_offload_params: true\n  fsdp_version: 2\n"
    own = import_text(tmp_path, text).plugin_options["axolotl"]
    assert own["fsdp_config"] == {"offload_params": True, "fsdp_version": 2}


def test_preferences_of_a_file_are_not_said_to_be_unpacked(tmp_path: Path) -> None:
    """They never are packed: that a file says so is no reason to refuse it."""
    text = USER_FILE.replace("sample_packing: true", "sample_packing: false")
    recipe = import_text(tmp_path, f"{text}rl: dpo\nrl_beta: 0.1\n")
    assert recipe.data.packing == Recipe.model_validate(make(tmp_path).model_dump()).data.packing


def test_a_recipe_is_no_configuration(tmp_path: Path) -> None:
    """A file that is a recipe is left to the recipe reader."""
    file = tmp_path / "recipe.yaml"
    file.write_text("method: sft\nmodel: {name: a/b}\n", encoding="utf-8")
    assert import_file(file, get_host().spec("backend", "axolotl")) is None
