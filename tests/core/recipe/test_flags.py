"""Launch flags: each sets its key, and the forms of true and false."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from nexa.recipe.flags import (
    MODEL_SIZES,
    SEED_FLAGS,
    OptionalBooleanCommand,
    flags_to_keys,
    optional_boolean,
    seed_flags,
)
from nexa.recipe.load import load_recipe

from .conftest import WriteRecipe

HASH = "a" * 64
FLAGS = [
    (["--run-name", "R"], "run.name", "R"),
    (["--max-seq-len", "64"], "model.max_seq_len", 64),
    (["--dataset", "hf:o/d"], "data.remote_uri", "hf:o/d"),
    (["--dataset-version", "v2"], "data.dataset_version", "v2"),
    (["--expected-hash", HASH], "data.expected_dataset_hash", HASH),
    (["--val-split", "0.25"], "data.validation.fraction", 0.25),
    (["--local-cache", "/c"], "data.local_cache_root", "/c"),
    (["--nodes", "4"], "cluster.num_nodes", 4),
    (["--gpus-per-node", "8"], "cluster.gpus_per_node", 8),
    (["--microbatch", "2"], "training.microbatch_size_per_gpu", 2),
    (["--global-batch", "1024"], "training.global_batch_size", 1024),
    (["--grad-accum", "3"], "training.grad_accumulation_steps", 3),
    (["--steps", "7"], "training.max_steps", 7),
    (["--epochs", "0.5"], "training.epochs", 0.5),
    (["--lr", "1e-5"], "optimizer.lr", 1e-5),
    (["--warmup", "9"], "optimizer.scheduler.warmup_steps", 9),
    (["--save-every", "5"], "training.save_every_steps", 5),
    (["--eval-every", "6"], "training.eval_every_steps", 6),
    (["--log-every", "2"], "training.log_every_steps", 2),
    (["--activation-checkpointing"], "training.activation_checkpointing", True),
    (["--activation-checkpointing", "true"], "training.activation_checkpointing", True),
    (["--activation-checkpointing", "false"], "training.activation_checkpointing", False),
    (["--checkpoint-dir", "/ck"], "artifacts.store_uri", "file:///ck"),
    (["--wandb-project", "P"], "wandb.project", "P"),
    (["--wandb-run", "W"], "wandb.run", "W"),
    (["--backend", "torch"], "backend", "torch"),
    (["--scheduler", "local"], "scheduler", "local"),
    (["--model-size", "small"], "model.d_model", 2048),
    (["--model-size", "medium"], "model.n_layers", 32),
    (["--model-size", "large"], "model.n_heads", 32),
]


def _parse(arguments: list[str]) -> dict[str, Any]:
    @click.command(cls=OptionalBooleanCommand)
    @click.argument("recipe", required=False)
    @optional_boolean("--dry-run", default=False, help="Plan only.")
    @seed_flags
    def command(**params: Any) -> None:
        parsed.update(params)

    parsed: dict[str, Any] = {}
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return parsed


@pytest.mark.parametrize(("arguments", "key", "value"), FLAGS, ids=[" ".join(flag[0]) for flag in FLAGS])
def test_each_flag_sets_its_key(write_recipe: WriteRecipe, arguments: list[str], key: str, value: object) -> None:
    path = write_recipe(
        base="method: sft\nmodel: {name: llama, d_model: 8, n_layers: 1, n_heads: 2, n_kv_heads: 1}\n"
        "data: {remote_uri: x, validation: {remote_uri: e}}\ntraining: {epochs: 2}\n"
        "optimizer: {scheduler: linear}\n"
    )
    loaded = load_recipe(path, flags=flags_to_keys(_parse(arguments)))
    found: Any = loaded.recipe.document()
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert loaded.origins[key].kind == "flag"


def test_every_flag_is_tested() -> None:
    tested = {arguments[0] for arguments, _, _ in FLAGS}
    assert tested == {flag.option for flag in SEED_FLAGS}


def test_flags_not_given_set_nothing() -> None:
    assert flags_to_keys(_parse([])) == {}


def test_model_sizes() -> None:
    assert {name: tuple(sizes.values()) for name, sizes in MODEL_SIZES.items()} == {
        "small": (2048, 24, 16),
        "medium": (3072, 32, 24),
        "large": (4096, 36, 32),
    }


def test_a_new_data_set_drops_the_old_hash(write_recipe: WriteRecipe) -> None:
    path = write_recipe(
        base=f"method: sft\nmodel: {{name: o/m}}\ndata: {{remote_uri: x, expected_dataset_hash: {HASH}}}\n"
    )
    data = load_recipe(path, flags=flags_to_keys(_parse(["--dataset", "hf:o/d"]))).recipe.data
    assert data.expected_dataset_hash is None
    kept = load_recipe(path, flags=flags_to_keys(_parse(["--dataset", "hf:o/d", "--expected-hash", "b" * 64])))
    assert kept.recipe.data.expected_dataset_hash == "b" * 64


def test_wandb_flags_turn_the_tracker_on_beside_others(write_recipe: WriteRecipe) -> None:
    path = write_recipe("tracking: {observers: [tensorboard]}\n")
    flags = flags_to_keys(_parse(["--wandb-project", "P", "--wandb-run", "R"]))
    recipe = load_recipe(path, flags=flags).recipe
    assert recipe.tracking.observers == ["tensorboard", "wandb"]
    assert recipe.plugin_options["wandb"]["project"] == "P"
    assert recipe.plugin_options["wandb"]["run"] == "R"


@pytest.mark.parametrize(
    ("arguments", "dry_run", "recipe"),
    [
        ([], False, None),
        (["--dry-run"], True, None),
        (["--dry-run", "true"], True, None),
        (["--dry-run", "True", "r.yaml"], True, "r.yaml"),
        (["--dry-run=true"], True, None),
        (["--dry-run", "false"], False, None),
        (["--dry-run=false", "r"], False, "r"),
        (["--dry-run", "r.yaml"], True, "r.yaml"),
        (["r.yaml", "--dry-run", "--nodes", "2"], True, "r.yaml"),
        (["--dry-run", "--", "true"], True, "true"),
    ],
)
def test_a_boolean_may_stand_alone_or_take_a_value(arguments: list[str], dry_run: bool, recipe: str | None) -> None:
    parsed = _parse(arguments)
    assert parsed["dry_run"] is dry_run
    assert parsed["recipe"] == recipe


def test_an_unknown_mode_lists_the_choices() -> None:
    @click.command()
    @seed_flags
    def command(**params: Any) -> None: ...

    result = CliRunner().invoke(command, ["--config-mode", "v4"])
    assert result.exit_code == 2
    assert "'v1', 'v2', 'v3'" in result.output
