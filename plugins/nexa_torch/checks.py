"""What stops a recipe from training with this backend, found without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nexa.errors import PluginError, Problem, UserError
from nexa.plugins import load_target
from nexa.recipe.schema import Recipe
from nexa_torch.architectures import ARCHITECTURES, size_problems
from nexa_torch.backend import missing_packages
from nexa_torch.compiling import missing_compiler
from nexa_torch.optimizers import OPTIMIZERS, missing_package, unknown_optimizer
from nexa_torch.schedules import SCHEDULES, unknown_schedule
from nexa_torch.sources import PACKAGE_SCHEME, packaged_path, resolve_source
from nexa_torch.tasks.registry import LANGUAGE, find_task

_Check = Callable[[Recipe], Iterable[Problem]]
_INSTALL = "type: pip install 'nexa-train[torch]'"


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem, each with the recipe key it belongs to; empty when training can start."""
    try:
        task = find_task(recipe.method)
        own = load_target(task.check) if task.check else _nothing
    except (PluginError, ImportError, AttributeError) as error:
        hint = error.hint if isinstance(error, PluginError) else None
        return [Problem(path="method", message=str(error), hint=hint)]
    language = LANGUAGE in task.capabilities
    of_text = (model_problems, data_problems, _stream, adapter_problems, _compile) if language else ()
    checks: tuple[_Check, ...] = (*of_text, own, _packages, _optimizer, _sharded, evaluation_problems)
    return [problem for check in checks for problem in check(recipe)]


def _nothing(recipe: Recipe) -> Iterator[Problem]:
    return iter(())


def evaluation_problems(recipe: Recipe) -> Iterator[Problem]:
    """Early stopping without evaluations on the way would never stop."""
    training = recipe.training
    if training.early_stopping and training.eval_every_steps is None and training.eval_every_epochs is None:
        yield Problem(
            path="training.early_stopping",
            message="early stopping looks at evaluations, and none is asked for on the way",
            hint="set training.eval_every_steps or training.eval_every_epochs",
        )


def model_problems(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model.name in ARCHITECTURES:
        for path, message in size_problems(model):
            yield Problem(path=path, message=message)
        if model.tokenizer is None:
            yield Problem(
                path="model.tokenizer",
                message="an architecture has no tokenizer of its own",
                hint="set model.tokenizer: bytes, or a folder, hub id, GGUF file or pkg:PACKAGE/FILE",
            )
        return
    try:
        resolve_source(model.name)
    except UserError as error:
        yield Problem(path="model.name", message=error.message, hint=error.hint)


def data_problems(recipe: Recipe) -> Iterator[Problem]:
    """Files of packages that are not here; the plan looks for local ones, and other places are read in the run."""
    named = {
        "data.remote_uri": recipe.data.remote_uri,
        "data.validation.remote_uri": recipe.data.validation.remote_uri,
        "model.chat_template": recipe.model.chat_template,
    }
    for path, uri in named.items():
        if uri is not None and uri.startswith(PACKAGE_SCHEME):
            try:
                packaged_path(uri)
            except UserError as error:
                yield Problem(path=path, message=error.message, hint=error.hint)


def _stream(recipe: Recipe) -> Iterator[Problem]:
    if recipe.data.streaming and recipe.training.max_steps is None:
        yield Problem(
            path="data.streaming",
            message="a stream does not say how long it is, so the run has no end",
            hint="set training.max_steps",
        )


def _packages(recipe: Recipe) -> Iterator[Problem]:
    """Packages that only some recipes need; the plan looks for those that all do."""
    if recipe.model.name.endswith(".gguf") and _lacks(recipe, "gguf"):
        yield Problem(path="model.name", message="GGUF files need the package gguf", hint=_INSTALL)
    if recipe.adapter is not None and _lacks(recipe, "peft"):
        yield Problem(path="adapter", message="adapters need the package peft", hint=_INSTALL)


def _lacks(recipe: Recipe, package: str) -> bool:
    """Whether a package is missing where the workers run, as far as that is this environment."""
    return not recipe.environment.is_elsewhere and bool(missing_packages([package]))


def adapter_problems(recipe: Recipe) -> Iterator[Problem]:
    if recipe.adapter is None:
        return
    if recipe.model.name in ARCHITECTURES:
        yield Problem(path="adapter", message="an adapter on random weights learns nothing", hint="leave adapter out")
    if recipe.adapter.type == "qlora" and _lacks(recipe, "bitsandbytes"):
        yield Problem(
            path="adapter.type",
            message="qlora needs the package bitsandbytes for its 4-bit weights",
            hint="type: pip install 'nexa-train[quantize]', or set adapter.type=lora",
        )
    if recipe.adapter.type == "qlora" and recipe.adapter.use_dora:
        yield Problem(
            path="adapter.use_dora",
            message="DoRA needs the length of every weight row, which 4-bit weights give only roughly",
            hint="set adapter.type=lora, or adapter.use_dora=false",
        )


def _compile(recipe: Recipe) -> Iterator[Problem]:
    if recipe.training.compile and not recipe.cluster.gpus_per_node and (missing := missing_compiler()) is not None:
        yield Problem(
            path="training.compile",
            message=missing,
            hint="install one (Debian, Ubuntu: apt install g++), or set training.compile=false",
        )


def _optimizer(recipe: Recipe) -> Iterator[Problem]:
    if recipe.optimizer.name not in OPTIMIZERS:
        error = unknown_optimizer(recipe.optimizer.name)
        yield Problem(path="optimizer.name", message=error.message, hint=error.hint)
    elif not recipe.environment.is_elsewhere and (missing := missing_package(recipe.optimizer.name)) is not None:
        yield Problem(path="optimizer.name", message=missing.message, hint=missing.hint)
    schedule = recipe.optimizer.scheduler
    if schedule.name not in SCHEDULES:
        error = unknown_schedule(schedule.name)
        yield Problem(path="optimizer.scheduler.name", message=error.message, hint=error.hint)
    elif _watches_nothing(recipe):
        yield Problem(
            path="optimizer.scheduler.name",
            message=f"schedule {schedule.name} needs evaluations and the recipe has none to watch",
            hint="set training.eval_every_steps and data.validation.fraction (or remote_uri)",
        )
    kind = OPTIMIZERS.get(recipe.optimizer.name)
    if kind is not None and kind.own_schedule and schedule.name != "constant":
        yield Problem(
            path="optimizer.scheduler.name",
            message=f"{recipe.optimizer.name} averages weights instead of lowering the rate",
            hint="set optimizer.scheduler=constant; warmup_steps still counts",
        )
    steps = recipe.training.max_steps
    if steps is not None and schedule.warmup_steps > steps:
        yield Problem(
            path="optimizer.scheduler.warmup_steps",
            message=f"{schedule.warmup_steps} warm-up steps are more than the run's {steps}",
        )


def _sharded(recipe: Recipe) -> Iterator[Problem]:
    """What does not work on shards of weights."""
    if recipe.distributed.strategy != "fsdp":
        return
    kind = OPTIMIZERS.get(recipe.optimizer.name)
    if kind is not None and not kind.elementwise:
        fitting = ", ".join(name for name, kind in OPTIMIZERS.items() if kind.elementwise)
        yield Problem(
            path="optimizer.name",
            message=f"{recipe.optimizer.name} needs whole matrices and fsdp shards them",
            hint=f"set distributed.strategy=ddp, or an optimizer for shards: {fitting}",
        )
    if recipe.optimizer.offload:
        yield Problem(
            path="optimizer.offload",
            message="fsdp has an offload of its own",
            hint="set distributed.cpu_offload=true and optimizer.offload=false",
        )
    if recipe.adapter is not None and recipe.adapter.type == "qlora":
        yield Problem(
            path="adapter.type",
            message="4-bit weights can't be sharded",
            hint="set distributed.strategy=ddp, or adapter.type=lora",
        )


def _watches_nothing(recipe: Recipe) -> bool:
    """Whether the schedule watches evaluations and the recipe makes none during training."""
    kind = SCHEDULES.get(recipe.optimizer.scheduler.name)
    if kind is None or not kind.watches:
        return False
    validation, training = recipe.data.validation, recipe.training
    held_out = validation.fraction or validation.remote_uri or validation.split
    return not held_out or not (training.eval_every_steps or training.eval_every_epochs)
