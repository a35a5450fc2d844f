"""What stops a recipe from training with Axolotl, found without importing torch or Axolotl."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator

from nexa.errors import Problem, UserError
from nexa.prepared import cache_root
from nexa.recipe.schema import Recipe
from nexa.settings_report import ABSENT, value_at
from nexa_axolotl.environment import interpreter
from nexa_axolotl.options import SECTION, own_options
from nexa_axolotl.render import DATA_KEYS
from nexa_axolotl.schema import read_schema

_FOR_DATA = ("transformers", "numpy", "msgspec", "safetensors")
_KEPT = {
    "base_model": "model.name",
    "output_dir": None,
    "sequence_len": "model.max_seq_len",
    "sample_packing": "data.packing",
    "micro_batch_size": "training.microbatch_size_per_gpu",
    "gradient_accumulation_steps": "training.grad_accumulation_steps",
    "max_steps": "training.max_steps",
    "num_epochs": "training.epochs",
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "optimizer": "optimizer.name",
    "lr_scheduler": "optimizer.scheduler.name",
    "warmup_steps": "optimizer.scheduler.warmup_steps",
    "save_steps": "training.save_every_steps",
    "eval_steps": "training.eval_every_steps",
    "logging_steps": "training.log_every_steps",
    "max_grad_norm": "training.max_grad_norm",
    "seed": "training.seed",
    "adapter": "adapter.type",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "resume_from_checkpoint": None,
    "auto_resume_from_checkpoints": None,
    "dataset_prepared_path": None,
    "use_ray": None,
}
"""Axolotl's keys that a recipe says elsewhere (where), or that a run of Nexa decides (None)."""

_Check = Callable[[Recipe], Iterable[Problem]]


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem, each with the recipe key it belongs to; empty when training can start."""
    checks: tuple[_Check, ...] = (_packages, _axolotl, _said_elsewhere, _devices)
    return [problem for check in checks for problem in check(recipe)]


def _packages(recipe: Recipe) -> Iterator[Problem]:
    missing = [name for name in _FOR_DATA if importlib.util.find_spec(name) is None]
    if missing and not any(key in own_options(recipe) for key in DATA_KEYS):
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
        schema = read_schema(python, cache_root())
    except UserError as error:
        yield Problem(path="environment", message=error.message, hint=error.hint)
        return
    yield from schema.problems(own, section=SECTION)


def _said_elsewhere(recipe: Recipe) -> Iterator[Problem]:
    """Keys that stand in the way of the recipe's own."""
    document = recipe.document()
    for key in own_options(recipe):
        if key not in _KEPT:
            continue
        place = _KEPT[key]
        if place is None:
            yield Problem(path=f"{SECTION}.{key}", message="a run of Nexa decides this", hint="remove it")
            continue
        value = value_at(document, place)
        now = "" if value is ABSENT or value is None else f", which is {value!r}"
        yield Problem(
            path=f"{SECTION}.{key}", message=f"a recipe says this as {place}{now}", hint=f"set {place} instead"
        )


def _devices(recipe: Recipe) -> Iterator[Problem]:
    cluster = recipe.cluster
    if cluster.gpus_per_node and cluster.processes_per_node not in (None, cluster.gpus_per_node):
        yield Problem(
            path="cluster.processes_per_node",
            message=f"{cluster.processes_per_node} processes on {cluster.gpus_per_node} GPUs; each needs its own",
            hint=f"set cluster.processes_per_node={cluster.gpus_per_node} or leave it out",
        )
