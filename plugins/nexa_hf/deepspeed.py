"""What stops a recipe's DeepSpeed configuration, found without importing DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.batch import resolve_batch
from nexa.errors import Problem, RecipeError
from nexa.plan import resources_of
from nexa_hf.options import hf_options

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def deepspeed_problems(recipe: Recipe) -> Iterator[Problem]:
    """What is missing, what contradicts, and what can't be read."""
    options = hf_options(recipe)
    if options.deepspeed is None:
        return
    if not recipe.environment.is_elsewhere and importlib.util.find_spec("deepspeed") is None:
        yield Problem(
            path="hf.deepspeed",
            message="the package deepspeed is not installed",
            hint="type: pip install deepspeed, or drop hf.deepspeed",
        )
    if not recipe.cluster.gpus_per_node:
        yield Problem(
            path="hf.deepspeed",
            message="accelerate uses DeepSpeed on GPUs alone and cluster.gpus_per_node is 0",
            hint="set cluster.gpus_per_node, or drop hf.deepspeed",
        )
    if recipe.distributed.strategy == "fsdp":
        yield Problem(
            path="hf.deepspeed", message="DeepSpeed and fsdp both shard the model", hint="set distributed.strategy=auto"
        )
    try:
        configuration = _configuration(options.deepspeed)
    except ValueError as error:
        yield Problem(path="hf.deepspeed", message=str(error))
        return
    for key, (field, value) in _recipe_values(recipe).items():
        given = _value(configuration, key)
        if given not in (None, "auto", value):
            yield Problem(
                path="hf.deepspeed",
                message=f"{key} is {given!r} and {field} makes it {value!r}",
                hint=f'write {key.rpartition(".")[2]}: "auto", and set {field}',
            )


def _configuration(given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration, from its file where one is named. Raises ValueError where there is none in it."""
    if not isinstance(given, str):
        return given
    file = Path(given).expanduser()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object")
    return found


def _value(configuration: Mapping[str, Any], key: str) -> Any:
    found: Any = configuration
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _recipe_values(recipe: Recipe) -> Mapping[str, tuple[str, Any]]:
    """What transformers compares with the trainer's arguments: by key the recipe field and its value."""
    training = recipe.training
    values: dict[str, tuple[str, Any]] = {
        "train_micro_batch_size_per_gpu": ("training.microbatch_size_per_gpu", training.microbatch_size_per_gpu),
        "gradient_clipping": ("training.max_grad_norm", training.max_grad_norm or 0.0),
        "bf16.enabled": ("training.precision", training.precision == "bf16"),
        "fp16.enabled": ("training.precision", training.precision == "fp16"),
    }
    try:
        batch = resolve_batch(training, resources_of(recipe).world_size)
    except RecipeError:
        # The plan refuses it with the numbers.
        return values
    return {
        **values,
        "gradient_accumulation_steps": ("training.grad_accumulation_steps", batch.accumulation_steps),
        "train_batch_size": ("training.global_batch_size", batch.global_batch_size),
    }
