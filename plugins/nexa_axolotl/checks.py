"""What stops a recipe from training with Axolotl, found without importing torch or Axolotl."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from nexa.errors import Problem, UserError
from nexa.prepared import cache_root
from nexa.recipe.schema import Recipe
from nexa.settings_report import settings_report
from nexa_axolotl.environment import interpreter
from nexa_axolotl.names import DIRECT
from nexa_axolotl.options import SECTION, own_options
from nexa_axolotl.render import encodes_rows
from nexa_axolotl.schema import named_plugins, read_schema

_FOR_DATA = ("transformers", "numpy", "msgspec", "safetensors")
_DECIDED = ("output_dir", "dataset_prepared_path", "resume_from_checkpoint", "auto_resume_from_checkpoints", "use_ray")
"""Axolotl's keys that a run of Nexa decides."""
_NEUTRAL: Mapping[str, str] = {
    **DIRECT,
    "adapter": "adapter.type",
    "lora_target_modules": "adapter.target_modules",
    "optimizer": "optimizer.name",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "lr_scheduler": "optimizer.scheduler.name",
    "tokenizer_config": "model.tokenizer",
}
"""Axolotl's keys that a recipe has other names for; under these Nexa and its other backends understand them."""
_PLANNED = ("base_model", "sequence_len", "micro_batch_size", "gradient_accumulation_steps", "max_steps", "num_epochs")
"""Those that Nexa's own plan of a run follows."""

_Check = Callable[[Recipe], Iterable[Problem]]


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem, each with the recipe key it belongs to; empty when training can start."""
    checks: tuple[_Check, ...] = (_packages, _axolotl, _said_elsewhere, _deepspeed)
    return [problem for check in checks for problem in check(recipe)]


def _packages(recipe: Recipe) -> Iterator[Problem]:
    missing = [name for name in _FOR_DATA if importlib.util.find_spec(name) is None]
    if missing and encodes_rows(recipe):
        yield Problem(
            path="backend",
            message=f"the rows that Axolotl trains on are encoded here, which needs {', '.join(missing)}",
            hint="type: pip install 'nexa-train[torch]'",
        )


def _axolotl(recipe: Recipe) -> Iterator[Problem]:
    """Own keys against the schema of the Axolotl that will train; a container's is asked by the worker."""
    python = interpreter(recipe)
    own = own_options(recipe)
    if python is None or not own:
        return
    try:
        schema = read_schema(python, cache_root(), named_plugins(own))
    except UserError as error:
        yield Problem(path="environment", message=error.message, hint=error.hint)
        return
    yield from schema.problems(own, section=SECTION)


def _said_elsewhere(recipe: Recipe) -> Iterator[Problem]:
    """Keys that contradict what the recipe says by its own names, or that its plan must know."""
    set_lines = {line.path: line for line in settings_report(recipe, []) if line.is_set}
    for key, value in own_options(recipe).items():
        path = f"{SECTION}.{key}"
        if key in _DECIDED:
            yield Problem(path=path, message="a run of Nexa decides this", hint="remove it")
        elif (place := _NEUTRAL.get(key)) is not None and value is not None and (place in set_lines or key in _PLANNED):
            now = f", where it is {set_lines[place].value!r}" if place in set_lines else ""
            yield Problem(path=path, message=f"a recipe says this as {place}{now}", hint=f"set {place} instead")


def _deepspeed(recipe: Recipe) -> Iterator[Problem]:
    """A file of DeepSpeed's that a worker, whose current folder is the run's, would not find."""
    file = own_options(recipe).get("deepspeed")
    if not isinstance(file, str) or recipe.environment.container is not None:
        return
    if not (Path(file).is_absolute() and Path(file).is_file()):
        yield Problem(
            path=f"{SECTION}.deepspeed",
            message=f"there is no file {file}" if Path(file).is_absolute() else f"{file} is no whole path",
            hint="name a file by its whole path, or write its keys here; axolotl fetch deepspeed_configs brings some",
        )
