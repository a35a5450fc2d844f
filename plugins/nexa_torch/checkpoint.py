"""Trainer state next to a checkpoint's weights: written and read as safetensors and JSON, never pickle.

`trainer/optimizer.safetensors` holds the optimizer's tensors, named `PARAMETER/KEY`;
`trainer/state.json` the rest: step, place in the data, schedule, callbacks, what the numbers depend on;
`trainer/callbacks.safetensors` tensors of callbacks, where they have any. Random numbers need no state,
since every microbatch seeds its own (`engine.seeds`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nexa.errors import UserError, WorkerError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa_torch.callbacks.base import CallbackList
    from nexa_torch.engine.precision import Precision

FOLDER = "trainer"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
_CALLBACKS = "callbacks.safetensors"
_SCHEMA = 1
_FUNCTIONS = "lr_lambdas"


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a run stands, and what must be the same for it to continue exactly.

    step: finished optimizer steps. tokens_seen: tokens trained on, padding not counted.
    dataset_hash, rows: of the training data. global_batch_size: rows a step. cpu_matmul: library of
    fp32 products. metrics: the latest figures.
    """

    step: int
    tokens_seen: int
    total_steps: int
    dataset_hash: str
    rows: int
    global_batch_size: int
    seed: int
    cpu_matmul: str
    metrics: dict[str, float] = field(default_factory=dict)


def save_trainer(
    folder: Path,
    cursor: Cursor,
    network: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    callbacks: CallbackList,
    precision: Precision,
) -> None:
    """Write the trainer state into `folder`/trainer."""
    target = folder / FOLDER
    target.mkdir()
    tensors, scalars = _optimizer_state(network, optimizer)
    save_file(tensors, target / _OPTIMIZER)
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if kept := callbacks.state_tensors():
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}, target / _CALLBACKS)
    document = {
        "schema": _SCHEMA,
        **asdict(cursor),
        "random_numbers": "derived from seed, step and microbatch",
        "torch": torch.__version__,
        "optimizer": {"name": type(optimizer).__name__, "scalars": scalars, "groups": groups},
        "schedule": _schedule_state(schedule),
        "precision": precision.state_dict(),
        "callbacks": callbacks.state_dicts(),
    }
    (target / _STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")


def read_cursor(folder: Path) -> Cursor:
    """Read where the run of a checkpoint stands. Raises UserError when it holds no trainer state."""
    document = _document(folder)
    return Cursor(**{name: document[name] for name in Cursor.__dataclass_fields__})


def restore_trainer(
    folder: Path,
    network: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    callbacks: CallbackList,
    precision: Precision,
) -> None:
    """Put the saved state of optimizer, schedule, precision and callbacks into fresh ones, in place.

    Raises WorkerError where the state belongs to other parameters or another optimizer.
    """
    document = _document(folder)
    saved = document["optimizer"]
    if saved["name"] != type(optimizer).__name__:
        raise WorkerError(f"{folder} was saved with {saved['name']}, not {type(optimizer).__name__}")
    names = _parameter_names(network)
    tensors = load_file(folder / FOLDER / _OPTIMIZER)
    state: dict[str, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *saved["scalars"].items()]:
        parameter, _, entry = key.rpartition("/")
        state.setdefault(parameter, {})[entry] = value
    trained = {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    if state and set(state) != set(trained):
        differing = sorted(set(state) ^ set(trained))
        raise WorkerError(f"{folder} holds the optimizer state of other parameters: {', '.join(differing[:3])}")
    for name, entries in state.items():
        device = trained[name].device
        optimizer.state[trained[name]] = {
            key: value.to(device) if isinstance(value, Tensor) else value for key, value in entries.items()
        }
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(values)
    if schedule is not None:
        functions = {_FUNCTIONS: [None] * len(optimizer.param_groups)} if hasattr(schedule, _FUNCTIONS) else {}
        schedule.load_state_dict({**document["schedule"], **functions})
    precision.load_state_dict(document["precision"])
    callbacks.load_state_dicts(document["callbacks"])
    if (folder / FOLDER / _CALLBACKS).is_file():
        callbacks.load_state_tensors(load_file(folder / FOLDER / _CALLBACKS))


def _schedule_state(schedule: LRScheduler | None) -> dict[str, Any]:
    """A schedule's JSON state; the functions of a LambdaLR are made anew from the recipe."""
    state = {} if schedule is None else schedule.state_dict()
    return {key: value for key, value in state.items() if key != _FUNCTIONS}


def _optimizer_state(network: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names = _parameter_names(network)
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    seen: set[int] = set()
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{names[id(parameter)]}/{key}"
            if isinstance(value, Tensor):
                # Some optimizers hold one table for all parameters; safetensors wants a copy for each.
                shared = value.data_ptr() in seen
                seen.add(value.data_ptr())
                tensors[name] = (
                    value.detach().cpu().contiguous().clone() if shared else value.detach().cpu().contiguous()
                )
            elif value is not None:
                scalars[name] = value
    return tensors, scalars


def _parameter_names(network: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in network.named_parameters()}


def _document(folder: Path) -> dict[str, Any]:
    file = folder / FOLDER / _STATE
    if not file.is_file():
        raise UserError(
            f"checkpoint {folder} holds no trainer state, so the run can't continue from it",
            hint="it was saved with checkpointing.save_optimizer=false; start a new run with it as model.name",
        )
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if document.get("schema") != _SCHEMA:
        raise WorkerError(f"{file} has schema {document.get('schema')}; this version reads {_SCHEMA}")
    return document
