"""The shipped recipes: they load, their data can be trained on, and the modes differ only as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexa.batch import resolve_batch
from nexa.recipe.flags import flags_to_keys
from nexa.recipe.load import load_recipe
from nexa.uris import is_uri

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
CADENCE = {
    "training.max_steps",
    "training.save_every_steps",
    "training.eval_every_steps",
    "training.log_every_steps",
    "optimizer.scheduler.warmup_steps",
}
SIZE = {"model.d_model", "model.n_layers", "model.n_heads", "model.max_seq_len"}
ABOUT = {"description", "tags"}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= _flat(child, f"{prefix}.{key}" if prefix else key)
    return flat


def _differences(name: str) -> set[str]:
    full, mode = (_flat(load_recipe(RECIPES / f"{each}.yaml").recipe.document()) for each in ("v3", name))
    assert full.keys() == mode.keys()
    return {key for key in full if full[key] != mode[key]} - ABOUT


def test_the_recipes_promised_are_there() -> None:
    assert {"quickstart", "v1", "v2", "v3", "pretrain-shakespeare", "shakespeare-chars", "falcon3-qlora"} <= set(NAMES)
    assert {"sft-hf", "dpo", "kto", "orpo", "reward", "grpo"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_describes_itself(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml").recipe
    assert recipe.description
    assert recipe.tags
    assert is_uri(recipe.data.remote_uri) or Path(recipe.data.remote_uri).is_file()
    resolve_batch(recipe.training, max(1, recipe.cluster.gpus_per_node))


def test_v2_is_the_full_run_but_for_steps_and_cadence() -> None:
    assert _differences("v2") <= CADENCE


def test_v1_is_the_full_run_but_for_steps_cadence_and_size() -> None:
    assert _differences("v1") <= CADENCE | SIZE
    v1, v3 = (load_recipe(RECIPES / f"{name}.yaml").recipe for name in ("v1", "v3"))
    assert (v1.training.max_steps or 0) < (v3.training.max_steps or 0)
    assert (v1.model.d_model or 0) < (v3.model.d_model or 0)


def test_v1_in_the_full_size_is_the_full_model() -> None:
    flags = flags_to_keys({"model_size": "small", "run_name": "R", "dataset": "D.jsonl"})
    recipe = load_recipe(RECIPES / "v1.yaml", flags=flags).recipe
    full = load_recipe(RECIPES / "v3.yaml").recipe
    assert recipe.run.name == "R"
    assert Path(recipe.data.remote_uri) == Path.cwd() / "D.jsonl"
    assert (recipe.model.d_model, recipe.model.n_layers, recipe.model.n_heads) == (2048, 24, 16)
    assert recipe.model.model_copy(update={"max_seq_len": full.model.max_seq_len}) == full.model


def test_v3_on_four_nodes_splits_the_batch() -> None:
    flags = flags_to_keys({"nodes": 4, "gpus_per_node": 8, "global_batch": 1024})
    recipe = load_recipe(RECIPES / "v3.yaml", flags=flags).recipe
    plan = resolve_batch(recipe.training, recipe.cluster.num_nodes * recipe.cluster.gpus_per_node)
    assert (plan.world_size, plan.accumulation_steps, plan.global_batch_size) == (32, 8, 1024)


def test_falcon3_is_a_qlora_run_on_prompt_response_rows() -> None:
    recipe = load_recipe(RECIPES / "falcon3-qlora.yaml").recipe
    assert recipe.model.name == "tiiuae/Falcon3-7B-Instruct"
    assert recipe.adapter is not None
    assert recipe.adapter.type == "qlora"
    assert recipe.data.format == "prompt_response"
    assert recipe.cluster.gpus_per_node == 1


@pytest.mark.parametrize("name", ["v1", "pretrain-shakespeare", "shakespeare-chars"])
def test_the_data_makes_rows_to_train_and_to_evaluate_on(name: str) -> None:
    pytest.importorskip("transformers")
    from nexa_torch.data.prepare import prepare_data

    recipe = load_recipe(RECIPES / f"{name}.yaml").recipe
    data = prepare_data(recipe)
    assert len(data.train) > recipe.training.microbatch_size_per_gpu
    assert data.validation is not None
    assert len(data.validation) > 0


def test_a_single_text_is_held_out_at_its_end(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from nexa_torch.data.prepare import prepare_data

    text = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "one.txt").write_text(text)
    overrides = {
        "data.remote_uri": tmp_path / "one.txt",
        "data.validation.fraction": 0.1,
        "data.local_cache_root": tmp_path / "cache",
        "model.max_seq_len": 2048,
    }
    typed = [f"{key}={value}" for key, value in overrides.items()]
    data = prepare_data(load_recipe(RECIPES / "pretrain-shakespeare.yaml", overrides=typed).recipe)
    assert data.validation is not None
    train, validation = (
        data.tokenizer.decode(rows.take([0]).input_ids[0], skip_special_tokens=True)
        for rows in (data.train, data.validation)
    )
    assert train + validation == text
    assert validation.startswith("line ")
    assert 0.08 * len(text) < len(validation) < 0.13 * len(text)


@pytest.mark.parametrize("name", ["sft-hf", "dpo", "kto", "orpo", "reward", "grpo"])
def test_what_a_recipe_of_hugging_face_sets_is_heeded(name: str) -> None:
    """Nothing that it sets is refused, and nothing stops it on a machine with the packages."""
    from nexa.plugins import get_host
    from nexa.settings_report import settings_report

    recipe = load_recipe(RECIPES / f"{name}.yaml").recipe
    backend = get_host().create("backend", "hf")
    lines = settings_report(recipe, backend.settings(recipe))
    assert [line.path for line in lines if line.is_set and line.answer == "refused"] == []
    assert list(backend.check(recipe)) == []


def test_falcon3_trains_with_hugging_face_too() -> None:
    from nexa.plugins import get_host
    from nexa.settings_report import settings_report

    recipe = load_recipe(RECIPES / "falcon3-qlora.yaml", overrides=["backend=hf"]).recipe
    backend = get_host().create("backend", "hf")
    lines = settings_report(recipe, backend.settings(recipe))
    assert [line.path for line in lines if line.is_set and line.answer == "refused"] == []


def test_falcon3_is_planned_without_its_hardware() -> None:
    from nexa.backend import Resources
    from nexa.plugins import get_host

    recipe = load_recipe(RECIPES / "falcon3-qlora.yaml").recipe
    backend = get_host().create("backend", "torch")
    launch = backend.plan(recipe, Resources(num_nodes=1, gpus_per_node=1, processes_per_node=1))
    assert launch.processes_per_node == 1
    refused = {answer.path for answer in backend.settings(recipe) if answer.answer == "refused"}
    given = {
        "data.format",
        "data.remote_uri",
        "training.precision",
        "training.activation_checkpointing",
        "adapter.rank",
    }
    assert not refused & given
