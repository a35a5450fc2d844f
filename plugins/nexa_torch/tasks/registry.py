"""Which task a recipe's method names. This package's own are found without a look at other plugins.

Imports nothing heavy: planning asks here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa.errors import PluginError
from nexa.plugins import get_host, load_target
from nexa.specs import TaskSpec

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.data.module import BaseDataModule
    from nexa_torch.tasks.base import TrainingTask

BACKEND = "torch"
TASK_FILE = "task.json"
"""File in a checkpoint that names the task which made it; language models have none."""
SCRIPT = "script"
"""Method of runs whose model and data come from a script, through `Trainer`."""
LANGUAGE = "language"
"""Capability of tasks that train a language model on token rows: they heed the recipe keys of text."""

_LANGUAGE_TASK = {
    "factory": "nexa_torch.tasks.language_model:LanguageModelTask",
    "data_module": "nexa_torch.data.language:LanguageDataModule",
    "capabilities": frozenset({LANGUAGE}),
    "backend": BACKEND,
}

TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(name="pretrain", summary="Next-token prediction on text", **_LANGUAGE_TASK),
        TaskSpec(name="sft", summary="Supervised fine-tuning on conversations and answers", **_LANGUAGE_TASK),
        TaskSpec(
            name="regression",
            summary="A multilayer perceptron on made-up data with a known answer, to try the engine with",
            factory="nexa_torch.tasks.regression:RegressionTask",
            data_module="nexa_torch.data.synthetic:SyntheticDataModule",
            options_model="nexa_torch.tasks.regression_options:RegressionOptions",
            check="nexa_torch.tasks.regression_options:find_problems",
            honours=("data.validation.fraction",),
            backend=BACKEND,
        ),
        TaskSpec(
            name=SCRIPT,
            summary="A model and data sets that a script gives to nexa_torch.Trainer",
            factory="nexa_torch.tasks.given:GivenModelTask",
            data_module="nexa_torch.data.given:GivenDataModule",
            honours=("training.activation_checkpointing", "adapter.*"),
            backend=BACKEND,
        ),
    )
}
"""The tasks of this package, by the method that trains them."""


def find_task(method: str) -> TaskSpec:
    """The task of a method. Raises PluginError where there is none for this backend."""
    if method in TASKS:
        return TASKS[method]
    spec = get_host().task_of(BACKEND, method)
    if spec is None:
        known = get_host().methods(get_host().spec("backend", BACKEND))
        raise PluginError(f"the torch backend has no task {method!r}", hint=f"it has {', '.join(known)}")
    return spec


def is_language(method: str) -> bool:
    """Whether a method trains a language model on token rows."""
    return LANGUAGE in find_task(method).capabilities


def load_data_module(recipe: Recipe) -> BaseDataModule:
    """A new data module of the recipe's method. Raises PluginError where it can't be loaded."""
    from nexa_torch.data.module import BaseDataModule

    spec = find_task(recipe.method)
    module: BaseDataModule = _load_class(spec, spec.data_module, BaseDataModule)(recipe)
    return module


def load_task(recipe: Recipe, data_module: BaseDataModule) -> TrainingTask:
    """A new task of the recipe's method over its data. Raises PluginError where it can't be loaded."""
    from nexa_torch.tasks.base import TrainingTask

    spec = find_task(recipe.method)
    task: TrainingTask = _load_class(spec, spec.factory, TrainingTask)(recipe, data_module)
    return task


def _load_class(spec: TaskSpec, target: str, contract: type) -> Any:
    try:
        found = load_target(target)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"task {spec.name!r}: {target} can't be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise PluginError(
            f"task {spec.name!r}: {target} is not a class derived from {contract.__name__}",
            hint=f"derive it from {contract.__module__}.{contract.__name__}",
        )
    return found
