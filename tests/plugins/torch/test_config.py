"""`Config`: the recipe as attributes, from YAML, variables and arguments, and back."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexa.errors import RecipeError, UserError
from nexa.recipe.load import load_recipe
from nexa.recipe.views import CONFIG_NAMES
from nexa_torch import Config

COMPLETE = {"method": "sft", "model.name": "org/model", "data.remote_uri": "/data/rows.jsonl"}
VALUES: dict[str, list[Any]] = {
    "run.name": ["a", "trial-7.b"],
    "model.max_seq_len": [1, 4096],
    "model.revision": ["main", "0123", "no", "null "],
    "data.format": ["auto", "messages", "text"],
    "data.validation.fraction": [0.01, 0.5],
    "data.packing": [True, False],
    "data.max_documents": [None, 3],
    "training.epochs": [0.5, 3, 20.0],
    "training.batch_size": [1, 64],
    "training.global_batch_size": [64, 1024],
    "training.grad_accumulation_steps": [None, 2],
    "training.precision": ["fp32", "bf16"],
    "training.max_grad_norm": [None, 0.3, 1e-6],
    "training.seed": [0, 2**63 - 1],
    "optimizer.lr": [1e-5, 3, 2.5e-300],
    "optimizer.betas": [[0.9, 0.999], (0.0, 1.0)],
    "optimizer.scheduler": ["linear", {"name": "wsd", "decay_steps": 7}],
    "optimizer.warmup_steps": [0, 100],
    "adapter.rank": [1, 64],
    "adapter.target_modules": ["all-linear", ["q_proj", "v_proj"]],
    "samples.prompts": [[], ['Ahoy: "x" # y', "é\n"]],
    "cluster.gpus_per_node": [0, 8],
    "artifacts.labels": [{}, {"team": "a b", "1": "2"}],
    "meta": [{}, {"mine": [1, None, {"deep": True}]}],
    "logging.log_dir": ["/logs", "~"],
    "torch.loss_chunk": [16, 512],
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no settings of the person who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_save_and_load_give_the_same_config(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    chosen = {name: draw.choice(values) for name, values in VALUES.items() if draw.random() < 0.5}
    config = Config({**COMPLETE, **chosen})
    config.save_to_yaml(tmp_path / "saved.yaml")
    again = Config.from_yaml(tmp_path / "saved.yaml")
    assert again == config
    assert again.recipe == config.recipe == load_recipe(tmp_path / "saved.yaml").recipe
    assert Config.from_recipe(config.recipe) == config


@pytest.mark.parametrize("part", [{}, {"training.epochs": 2}, {"model.name": "org/model"}])
def test_a_part_of_a_recipe_is_saved_and_loaded(part: dict[str, Any], tmp_path: Path) -> None:
    config = Config(part)
    config.save_to_yaml(tmp_path / "part.yaml")
    assert Config.from_yaml(tmp_path / "part.yaml") == config
    with pytest.raises(RecipeError, match="required, but not given"):
        _ = config.recipe


def test_what_is_saved_is_a_valid_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    Config({**COMPLETE, "data.remote_uri": "rows.jsonl"}).save_to_yaml("saved.yaml")
    command = [sys.executable, "-m", "nexa", "recipe", "validate", "saved.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", CONFIG_NAMES, ids=lambda row: row.name)
def test_every_name_reads_and_sets_its_recipe_key(row: Any) -> None:
    values = {"method": "pretrain", "tensorboard.log_dir": "/logs", "optimizer.scheduler.name": "wsd"}
    value = values.get(row.path, "file:///store" if row.path == "artifacts.store_uri" else 3)
    config = Config()
    section, _, name = row.name.rpartition(".")
    target = getattr(config, section) if section else config
    setattr(target, name, value)
    assert getattr(target, name) == value
    assert config.get(row.path) == value


def test_defaults_are_the_recipes() -> None:
    config = Config()
    recipe = Config(COMPLETE).recipe
    assert config.training.batch_size == recipe.training.microbatch_size_per_gpu
    assert config.optimizer.lr == recipe.optimizer.lr
    assert config.logging.log_dir is None
    assert not config.adapter
    assert config.adapter.rank is None
    config.adapter.rank = 8
    assert config.adapter
    assert config.adapter.alpha == 32.0


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("training.epohcs", "training.epochs"),
        ("trainng", "training"),
        ("training.lerning_rate", "optimizer.learning_rate"),
    ],
)
def test_unknown_names_name_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {nearest}"):
        Config({name: 1})
    section, _, last = name.rpartition(".")
    config = Config()
    with pytest.raises(AttributeError, match=nearest):
        getattr(getattr(config, section) if section else config, last)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.epochs", "20"),
        ("training.epochs", -1),
        ("training.batch_size", 1.5),
        ("optimizer.lr", float("nan")),
        ("training.precision", "fp8"),
        ("data.packing", 1),
        ("optimizer.betas", [0.9]),
        ("run.name", "a b"),
    ],
)
def test_values_are_checked_when_they_are_set(name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match="must"):
        Config({name: value})


def test_epochs_and_max_steps_take_one_another_back() -> None:
    config = Config({**COMPLETE, "training.max_steps": 5})
    config.training.epochs = 2
    assert config.training.max_steps is None
    config.training.max_steps = 7
    assert config.recipe.training.epochs is None


def test_arguments_beat_variables_beat_yaml_beat_defaults(tmp_path: Path) -> None:
    base = "method: sft\nmodel: {name: org/m}\ndata: {remote_uri: rows.jsonl}\n"
    (tmp_path / "my.yaml").write_text(
        base + "training: {seed: 1, log_every_steps: 1, save_every_steps: 1, max_steps: 9}\n"
    )
    env = {
        "NEXA_TRAIN_CONFIG": "my.yaml",
        "NEXA_TRAIN_TRAINING_SEED": "2",
        "NEXA_TRAIN_LOG_EVERY": "2",
        "NEXA_TRAIN_OPTIMIZER_NAME": "adamw",
        "NEXA_TRAIN_LR": "0.5",
        "HOME": "/",
    }
    argv = [
        "--training-seed",
        "3",
        "--epochs",
        "20",
        "--training-batch-size=64",
        "data.packing=false",
        "--run-name",
        "7",
    ]
    config = Config.from_args_and_env(argv, env)
    assert config.training.seed == 3
    assert config.training.log_every_steps == 2
    assert config.training.save_every_steps == 1
    assert config.training.precision == "fp32"
    assert config.optimizer.lr == 0.5
    assert (config.training.epochs, config.training.max_steps, config.training.batch_size) == (20.0, None, 64)
    assert config.data.packing is False
    assert config.run.name == "7"
    assert config.recipe.data.remote_uri == str(tmp_path / "rows.jsonl")
    assert str(config.loaded.origins["optimizer.lr"]) == "variable $NEXA_TRAIN_LR"


def test_flags_without_a_value_and_of_plugins() -> None:
    config = Config.from_args_and_env(["--torch-loss-chunk", "64", "--data-packing", "false"], {})
    assert (config.torch.loss_chunk, config.data.packing) == (64, False)
    assert (
        Config.from_args_and_env(["--training-activation-checkpointing"], {}).training.activation_checkpointing is True
    )
    with pytest.raises(UserError, match="needs a value"):
        Config.from_args_and_env(["--optimizer-lr"], {})


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        (["--epohcs", "3"], {}, "did you mean --epochs"),
        (["--training-bach-size", "3"], {}, "did you mean --training-batch-size"),
        (["--lr", "fast"], {}, "not a valid float"),
        ([], {"NEXA_TRAIN_EPOHCS": "3"}, r"\$NEXA_TRAIN_EPOHCS.*\n.*NEXA_TRAIN_EPOCHS"),
        ([], {"NEXA_TRAIN_LR": "fast"}, r"\$NEXA_TRAIN_LR"),
        (["a.yaml", "--config", "b.yaml"], {}, "one run has one recipe"),
        (["--config", "missing.yaml"], {}, "there is no recipe file"),
    ],
)
def test_wrong_arguments_and_variables(argv: list[str], env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config.from_args_and_env(argv, env)


def test_wrong_values_in_variables_name_the_variable() -> None:
    config = Config.from_args_and_env([], {"NEXA_TRAIN_OPTIMIZER_BETAS": "[0.9]"})
    with pytest.raises(RecipeError, match=r"\$NEXA_TRAIN_OPTIMIZER_BETAS"):
        _ = config.recipe


def test_a_scripts_own_command_line_ends_with_one_message() -> None:
    code = "from nexa_torch import Config; Config.from_args_and_env(); print('torch' in __import__('sys').modules)"

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)

    wrong = run("--epohcs", "3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: there is no option --epohcs")
    assert "Traceback" not in wrong.stderr
    assert run("--help").returncode == 0
    assert run("--epochs", "3").stdout == "False\n"


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be written"):
        Config().save_to_yaml(tmp_path / "missing" / "config.yaml")
