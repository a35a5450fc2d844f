"""What the Hugging Face backend says of a recipe before anything is imported or trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from nexa.backend import Answer
from nexa.cli.main import main
from nexa.errors import Problem
from nexa.recipe.schema import Recipe
from nexa.testing.recipes import tiny_recipe
from nexa_hf import checks
from nexa_hf.arguments import nested, training_arguments
from nexa_hf.backend import HfBackend
from nexa_hf.fields import argument_types, takes
from nexa_hf.methods import METHODS, find_method

BACKEND = HfBackend()


def recipe(folder: Path, overrides: Mapping[str, Any]) -> Recipe:
    """The tiny recipe for this backend."""
    return tiny_recipe(folder, {"backend": "hf", **overrides})


def answer(folder: Path, path: str, overrides: Mapping[str, Any]) -> tuple[Answer, str]:
    """What the backend answers for one field of a recipe."""
    found = next(each for each in BACKEND.settings(recipe(folder, overrides)) if each.path == path)
    return found.answer, found.detail


def problems(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Problem]:
    """Problems by path."""
    return {problem.path: problem for problem in BACKEND.check(recipe(folder, overrides))}


@pytest.mark.parametrize(
    ("path", "overrides", "expected"),
    [
        ("training.microbatch_size_per_gpu", {}, "per_device_train_batch_size=2"),
        ("training.global_batch_size", {"training.global_batch_size": 8}, "gradient_accumulation_steps=4"),
        ("training.precision", {"training.precision": "bf16"}, "bf16=True, fp16=False"),
        ("optimizer.betas", {}, "adam_beta1=0.9, adam_beta2=0.95"),
        ("optimizer.momentum", {"optimizer.name": "sgd", "optimizer.momentum": 0.5}, "optim_args=momentum=0.5"),
        (
            "optimizer.scheduler.name",
            {"optimizer.scheduler": {"name": "linear", "min_lr_ratio": 0.1}, "optimizer.lr": 1e-3},
            "lr_scheduler_type=polynomial, lr_scheduler_kwargs.power=1, lr_scheduler_kwargs.lr_end=0.0001",
        ),
        (
            "optimizer.scheduler.name",
            {"optimizer.scheduler": {"name": "wsd", "decay_shape": "1-sqrt"}, "training.max_steps": 50},
            "lr_scheduler_kwargs.num_decay_steps=5, lr_scheduler_kwargs.decay_type=1-sqrt",
        ),
        ("data.packing", {"data.packing": False}, "packing=False"),
        ("training.microbatch_size_per_gpu", {"method": "kto"}, "another size gives another loss"),
        ("training.microbatch_size_per_gpu", {"method": "orpo"}, "another size gives another loss"),
        (
            "distributed.strategy",
            {"cluster.gpus_per_node": 2, "distributed.strategy": "fsdp"},
            "fsdp=True, fsdp_config.version=2",
        ),
    ],
)
def test_a_field_is_shown_as_what_it_becomes(
    tmp_path: Path, path: str, overrides: Mapping[str, Any], expected: str
) -> None:
    kind, detail = answer(tmp_path, path, overrides)
    assert kind is Answer.TRANSLATED
    assert expected in detail


@pytest.mark.parametrize(
    ("path", "overrides", "reason"),
    [
        ("data.streaming", {"data.streaming": True}, "backend: torch"),
        ("training.measure_mfu", {"training.measure_mfu": True}, "backend: torch"),
        ("training.precision", {"training.precision": "fp16"}, "needs a CUDA GPU"),
        ("distributed.cpu_offload", {"distributed.strategy": "fsdp"}, "everything in CPU memory"),
        ("optimizer.momentum", {"optimizer.momentum": 0.5}, "these take one: sgd"),
        ("optimizer.scheduler.cycles", {"optimizer.scheduler": {"name": "linear", "cycles": 3}}, "these have"),
        ("distill.alpha", {}, "heeds no such field"),
    ],
)
def test_a_field_that_is_not_heeded_is_refused_with_a_reason(
    tmp_path: Path, path: str, overrides: Mapping[str, Any], reason: str
) -> None:
    kind, detail = answer(tmp_path, path, overrides)
    assert kind is Answer.REFUSED
    assert reason in detail


def test_what_is_shown_is_what_is_passed(tmp_path: Path) -> None:
    """Every NAME=VALUE of the report is in the arguments that the trainer is made with."""
    chosen = recipe(tmp_path, {"data.validation.fraction": 0.2, "training.eval_every_steps": 2})
    given = training_arguments(chosen, find_method("sft"))
    for found in BACKEND.settings(chosen):
        for part in found.detail.split(", ") if found.answer is Answer.TRANSLATED else ():
            name, equals, value = part.partition("=")
            if not equals:
                continue
            argument, _, key = name.partition(".")
            passed = given[argument][key] if key else given[argument]
            assert value == (f"{passed:.12g}" if isinstance(passed, float) else str(passed)), part


def test_dotted_arguments_become_mappings() -> None:
    assert nested({"a": 1, "b.c": 2, "b.d": 3}) == {"a": 1, "b": {"c": 2, "d": 3}}


@pytest.mark.parametrize("method", METHODS)
def test_every_argument_exists_in_the_installed_libraries(tmp_path: Path, method: str) -> None:
    """Names are read from the sources of transformers and TRL."""
    found = find_method(method)
    names = argument_types(found.fields).keys()
    assert "learning_rate" in names
    assert set(training_arguments(recipe(tmp_path, {"method": method}), found)) - names == set()


def test_own_arguments_are_checked_by_name(tmp_path: Path) -> None:
    found = problems(
        tmp_path, {"hf.arguments": {"neftune_noise_alphas": 5, "bf16": True, "report_to": "all", "output_dir": "x"}}
    )
    assert found["hf.arguments.neftune_noise_alphas"].hint == "did you mean 'neftune_noise_alpha'?"
    assert found["hf.arguments.bf16"].hint == "set training.precision"
    assert "tracking.observers" in (found["hf.arguments.report_to"].hint or "")
    assert set(found) == {
        f"hf.arguments.{name}" for name in ("neftune_noise_alphas", "bf16", "report_to", "output_dir")
    }


def test_own_arguments_are_checked_by_type(tmp_path: Path) -> None:
    found = problems(tmp_path, {"hf.arguments": {"neftune_noise_alpha": "five", "ddp_bucket_cap_mb": 25}})
    assert found["hf.arguments.neftune_noise_alpha"].message == "'five' is not of type float | None"
    assert len(found) == 1


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        ("float | None", 1, True),
        ("float | None", None, True),
        ("int", 1.5, False),
        ("bool", 1, False),
        ("dict[str, bool] | None", {}, True),
        ("dict[str, bool] | None", True, False),
        ("SchedulerType | str", "cosine", True),
        ("HubStrategy", "end", True),
        ("HubStrategy", 3, False),
        ("Any", [1], True),
    ],
)
def test_types_are_read_from_annotations(annotation: str, value: Any, fits: bool) -> None:
    assert takes(annotation, value) is fits


def test_deepspeed_is_refused_where_it_can_not_run(tmp_path: Path) -> None:
    found = list(BACKEND.check(recipe(tmp_path, {"hf.deepspeed": str(tmp_path / "missing.json")})))
    text = " ".join(f"{problem.message} {problem.hint}" for problem in found)
    assert {problem.path for problem in found} == {"hf.deepspeed"}
    assert "GPUs alone" in text
    assert "missing.json can't be read" in text


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, "training.microbatch_size_per_gpu makes it 2"),
        ({"train_batch_size": 99, "gradient_clipping": "auto"}, "training.global_batch_size makes it 4"),
        ({"bf16": {"enabled": True}}, "training.precision makes it False"),
        ("missing.json", "can't be read"),
    ],
)
def test_a_deepspeed_configuration_that_contradicts_the_recipe_is_refused(
    tmp_path: Path, configuration: Any, said: str
) -> None:
    overrides = {"cluster.gpus_per_node": 2, "hf.deepspeed": configuration}
    assert any(said in problem.message for problem in BACKEND.check(recipe(tmp_path, overrides)))


def test_transformers_reads_the_deepspeed_configuration(tmp_path: Path) -> None:
    """Its own parser fills in what is "auto", from arguments that the recipe makes."""
    pytest.importorskip("deepspeed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
    from trl import SFTConfig

    given = {"train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 3}, "gradient_clipping": "auto"}
    arguments = training_arguments(recipe(tmp_path, {"hf.deepspeed": given}), find_method("sft"))
    parser = HfTrainerDeepSpeedConfig(arguments.pop("deepspeed"))
    parser.trainer_config_process(SFTConfig(output_dir=str(tmp_path), **arguments))
    assert parser.config["train_micro_batch_size_per_gpu"] == 2
    assert parser.config["gradient_clipping"] == 1.0
    assert parser.is_zero3()


def test_qlora_is_refused_without_a_gpu(tmp_path: Path) -> None:
    found = problems(tmp_path, {"adapter.type": "qlora"})
    assert "CUDA GPU" in found["adapter.type"].message


@pytest.mark.parametrize(
    ("overrides", "path", "hint"),
    [
        ({"optimizer.name": "adamv"}, "optimizer.name", "did you mean 'adamw'?"),
        ({"optimizer.scheduler": "cosine_warmpu"}, "optimizer.scheduler.name", "did you mean 'cosine_warmup'?"),
        ({"optimizer.scheduler": "plateau"}, "optimizer.scheduler.name", "eval_every_steps"),
        ({"method": "regression"}, "method", "it has pretrain, sft"),
        ({"hf.fsdp": {"x": 1}}, "hf.fsdp", "drop hf.fsdp"),
        ({"distributed.strategy": "fsdp"}, "distributed.strategy", "cluster.processes_per_node=2"),
    ],
)
def test_names_are_checked_before_a_launch(tmp_path: Path, overrides: Mapping[str, Any], path: str, hint: str) -> None:
    assert hint in (problems(tmp_path, overrides)[path].hint or "")


def test_fsdp_settings_are_checked_by_name(tmp_path: Path) -> None:
    overrides = {"cluster.gpus_per_node": 2, "distributed.strategy": "fsdp", "hf.fsdp": {"min_num_param": 1}}
    assert problems(tmp_path, overrides)["hf.fsdp.min_num_param"].hint == "did you mean 'min_num_params'?"


def test_versions_that_do_not_fit_are_named() -> None:
    """By the plan, from what the backend's spec asks for; the installed ones fit."""
    from nexa.environments.requirements import misfits, needs_of
    from nexa.plugins import get_host
    from nexa.specs import BackendSpec

    spec = get_host().spec("backend", "hf")
    assert isinstance(spec, BackendSpec)
    needs = needs_of(spec, "nexa-train")
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    installed = {name: metadata.version(name) for name in packages}
    assert not [reason for reason in misfits(needs, installed, "3.11.9") if any(name in reason for name in packages)]
    reasons = misfits(needs, {**installed, "trl": "0.9.0"}, "3.11.9")
    assert any("it has trl 0.9.0, backend hf needs" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [([], "slower than backend torch"), (["method=pretrain"], "backend torch computes the loss in pieces")],
)
def test_the_plan_names_the_faster_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    """Where Nexa's own engine serves the method too."""
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(recipe(tmp_path / "rows", {}).document()))
    assert main(["launch", str(file), *overrides, "--explain"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_checks_name_every_problem_at_once(tmp_path: Path) -> None:
    found = checks.find_problems(recipe(tmp_path, {"optimizer.name": "x", "adapter.type": "qlora"}))
    assert {problem.path for problem in found} >= {"optimizer.name", "adapter.type"}


@pytest.mark.parametrize(
    ("method", "path", "value", "said"),
    [
        ("dpo", "data.format", "messages", "method dpo trains on rows of the layout preference"),
        ("kto", "data.format", "prompts", "method kto trains on rows of the layout unpaired or preference"),
        ("sft", "data.format", "preference", "rows of the layout preference are for the methods dpo, kto"),
        ("dpo", "preference.desirable_weight", 2.0, "method dpo has no use for it; these have: kto"),
        ("sft", "preference.beta", 0.2, "method sft has no use for it; these have: dpo, kto, orpo"),
        ("dpo", "rollouts.generations", 4, "method dpo has no use for it; these have: grpo"),
        ("reward", "samples.prompts", ["Hello"], "a reward model writes no text"),
        ("grpo", "data.streaming", True, "rows are checked and encoded whole before training"),
    ],
)
def test_fields_of_other_methods_are_refused(tmp_path: Path, method: str, path: str, value: Any, said: str) -> None:
    found, detail = answer(tmp_path, path, {"method": method, path: value})
    assert found is Answer.REFUSED
    assert detail.startswith(said)


@pytest.mark.parametrize(
    ("overrides", "path", "said"),
    [
        ({"method": "grpo"}, "rollouts.rewards", "needs at least one reward"),
        ({"method": "grpo", "rollouts.rewards": [{"name": "json", "weight": 0.0}]}, "rollouts.rewards", "weight 0"),
        (
            {"method": "grpo", "rollouts.rewards": [{"name": "json"}]},
            "rollouts.generations",
            "8 answers to a prompt do not divide an optimizer step of 2 answers",
        ),
        ({"method": "kto", "training.microbatch_size_per_gpu": 1}, "training.microbatch_size_per_gpu", "two rows"),
        ({"method": "dpo", "preference.reference_model": "llama"}, "preference.reference_model", "random weights"),
        ({"method": "kto", "preference.reference_model": "./none"}, "preference.reference_model", "does not exist"),
    ],
)
def test_problems_of_methods_are_found_before_a_launch(
    tmp_path: Path, overrides: dict[str, Any], path: str, said: str
) -> None:
    assert said in problems(tmp_path, overrides)[path].message


def test_the_estimate_knows_of_pairs_and_of_the_reference_model(tmp_path: Path) -> None:
    from nexa.plan import resources_of

    def memory(method: str, overrides: Mapping[str, Any]) -> Mapping[str, int]:
        made = recipe(tmp_path, {"method": method, **overrides})
        return BACKEND.estimate(made, resources_of(made)).memory_bytes

    alone = memory("sft", {})
    whole = memory("dpo", {})
    assert whole["activations"] == 2 * alone["activations"]
    assert whole["reference"] == whole["weights"]
    # The model has fewer tokens than TRL's head takes at once; transformers holds the logits of all of them too.
    assert whole["logits"] > 2 * alone["logits"] > 4 * memory("pretrain", {})["logits"]
    assert memory("reward", {})["logits"] == 0
    assert "reference" not in memory("dpo", {"adapter": {"rank": 4}})
    assert "reference" not in memory("dpo", {"preference.precompute_reference": True})
    assert "reference" in memory("grpo", {"rollouts.kl_beta": 0.1})
    assert "reference" not in memory("grpo", {})
