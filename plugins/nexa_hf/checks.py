"""What stops a recipe from training with this backend, found without importing torch."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Iterable, Iterator

from nexa.errors import Problem, UserError
from nexa.plan import resources_of
from nexa.recipe.schema import Recipe
from nexa_hf.arguments import holds_out, owners
from nexa_hf.deepspeed import deepspeed_problems
from nexa_hf.fields import argument_types, takes
from nexa_hf.methods import find_method
from nexa_hf.optimizers import OPTIMIZERS, SCHEDULES
from nexa_hf.options import hf_options
from nexa_torch import checks as torch_checks

_Check = Callable[[Recipe], Iterable[Problem]]


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem, each with the recipe key it belongs to; empty when training can start."""
    try:
        method = find_method(recipe.method)
    except UserError as error:
        return [Problem(path="method", message=error.message, hint=error.hint)]
    checks: tuple[_Check, ...] = (
        torch_checks.model_problems,
        torch_checks.data_problems,
        torch_checks.adapter_problems,
        _quantized,
        _optimizer,
        _schedule,
        torch_checks.evaluation_problems,
        _arguments,
        _fsdp,
        deepspeed_problems,
        method.check,
    )
    return [problem for check in checks for problem in check(recipe)]


def _quantized(recipe: Recipe) -> Iterator[Problem]:
    """4-bit weights are made and multiplied on a GPU, whole."""
    if recipe.adapter is None or recipe.adapter.type != "qlora":
        return
    if not recipe.cluster.gpus_per_node:
        yield Problem(
            path="adapter.type",
            message="qlora multiplies 4-bit weights on a CUDA GPU and cluster.gpus_per_node is 0",
            hint="set cluster.gpus_per_node=1, or adapter.type=lora",
        )
    if recipe.distributed.strategy == "fsdp":
        yield Problem(
            path="adapter.type",
            message="4-bit weights can't be sharded",
            hint="set distributed.strategy=ddp, or adapter.type=lora",
        )


def _unknown(path: str, what: str, name: str, known: Iterable[str]) -> Problem:
    close = difflib.get_close_matches(name, list(known), n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return Problem(
        path=path,
        message=f"backend hf has no {what} {name!r}",
        hint=f"{suggestion}it has {', '.join(known)}; backend torch may have it",
    )


def _optimizer(recipe: Recipe) -> Iterator[Problem]:
    name = recipe.optimizer.name
    choice = OPTIMIZERS.get(name)
    if choice is None:
        yield _unknown("optimizer.name", "optimizer", name, OPTIMIZERS)
        return
    if (
        choice.package is not None
        and not recipe.environment.is_elsewhere
        and importlib.util.find_spec(choice.package) is None
    ):
        yield Problem(
            path="optimizer.name",
            message=f"optimizer {name!r} needs the package {choice.package}",
            hint="type: pip install 'nexa-train[quantize]'",
        )
    if choice.gpu and not recipe.cluster.gpus_per_node:
        yield Problem(
            path="optimizer.name",
            message=f"transformers' {choice.optim} needs a CUDA GPU and cluster.gpus_per_node is 0",
            hint="set optimizer.name=adamw",
        )


def _schedule(recipe: Recipe) -> Iterator[Problem]:
    schedule, steps = recipe.optimizer.scheduler, recipe.training.max_steps
    choice = SCHEDULES.get(schedule.name)
    if choice is None:
        yield _unknown("optimizer.scheduler.name", "learning-rate schedule", schedule.name, SCHEDULES)
        return
    training = recipe.training
    if choice.watches and not (holds_out(recipe) and (training.eval_every_steps or training.eval_every_epochs)):
        yield Problem(
            path="optimizer.scheduler.name",
            message=f"schedule {schedule.name} needs evaluations and the recipe has none to watch",
            hint="set training.eval_every_steps and data.validation.fraction (or remote_uri)",
        )
    if schedule.name == "wsd" and schedule.decay_steps is None and steps is None:
        yield Problem(
            path="optimizer.scheduler.decay_steps",
            message="transformers wants the number of decay steps before it counts the run's",
            hint="set optimizer.scheduler.decay_steps, or training.max_steps",
        )
    if steps is not None and schedule.warmup_steps > steps:
        yield Problem(
            path="optimizer.scheduler.warmup_steps",
            message=f"{schedule.warmup_steps} warm-up steps are more than the run's {steps}",
        )


def _arguments(recipe: Recipe) -> Iterator[Problem]:
    """Entries of hf.arguments that the class does not have, that a recipe field stands for, or of a wrong type."""
    given = hf_options(recipe).arguments
    if not given:
        return
    method = find_method(recipe.method)
    types, owned = argument_types(method.fields), owners(recipe, method)
    kind = method.arguments_class.rpartition(":")[2]
    for name, value in given.items():
        if name in owned:
            yield Problem(path=f"hf.arguments.{name}", message=f"{name} is not set here", hint=owned[name])
        elif types and name not in types:
            close = difflib.get_close_matches(name, sorted(types), n=1)
            yield Problem(
                path=f"hf.arguments.{name}",
                message=f"{kind} takes no argument {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"see {kind} in the installed version",
            )
        elif types and not takes(types[name], value):
            yield Problem(path=f"hf.arguments.{name}", message=f"{value!r} is not of type {types[name]}")


FSDP_KEYS = (
    "activation_checkpointing",
    "auto_wrap_policy",
    "cpu_ram_efficient_loading",
    "min_num_params",
    "transformer_layer_cls_to_wrap",
)
"""Keys of transformers' fsdp_config, version 2, that no recipe field stands for."""


def _fsdp(recipe: Recipe) -> Iterator[Problem]:
    given = hf_options(recipe).fsdp
    if recipe.distributed.strategy == "fsdp" and resources_of(recipe).world_size == 1:
        yield Problem(
            path="distributed.strategy",
            message="transformers shards over several processes, and the recipe has one",
            hint="set cluster.processes_per_node=2 (cluster.gpus_per_node with GPUs), or distributed.strategy=auto",
        )
    if given and recipe.distributed.strategy != "fsdp":
        yield Problem(path="hf.fsdp", message="only distributed.strategy=fsdp shards", hint="set it, or drop hf.fsdp")
        return
    for name in given:
        if name not in FSDP_KEYS:
            close = difflib.get_close_matches(name, FSDP_KEYS, n=1)
            yield Problem(
                path=f"hf.fsdp.{name}",
                message=f"{name} is not set here",
                hint=f"did you mean {close[0]!r}?" if close else f"it has {', '.join(FSDP_KEYS)}",
            )
