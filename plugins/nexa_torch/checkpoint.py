"""Trainer state next to a checkpoint's weights: written and read as safetensors and JSON, never pickle.

`trainer/optimizer/state.safetensors` holds the optimizer's tensors, named `PARAMETER/KEY`, whole, whoever
wrote them (see `distributed.tensor_file`);
`trainer/state.json` the rest: step, place in the data, schedule, callbacks, what the numbers depend on;
`trainer/callbacks.safetensors` tensors of callbacks, where they have any. Random numbers need no state,
since every microbatch seeds its own (`engine.seeds`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nexa.errors import UserError, WorkerError
from nexa_torch.distributed.tensor_file import DTYPES, load_tensors, read_header, save_tensors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa_torch.callbacks.base import CallbackList
    from nexa_torch.engine.precision import Precision

FOLDER = "trainer"
_OPTIMIZER = "optimizer/state.safetensors"
STATE = "state.json"
_CALLBACKS = "callbacks.safetensors"
_SCHEMA = 1
_FUNCTIONS = "lr_lambdas"


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a run stands, and what must be the same for it to continue exactly.

    step: finished optimizer steps. tokens_seen: tokens trained on, padding not counted.
    dataset_hash, rows: of the training data. global_batch_size: rows a step. cpu_matmul: library of
    fp32 products. metrics: the latest figures. place: where the data's last row was found, see
    `BaseDataModule.place`.
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
    place: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerSnapshot:
    """The trainer state of one step.

    document: what `state.json` will hold. tensors: the optimizer's, plain or this rank's shards.
    callback_tensors: of callbacks, the same on every rank.
    """

    document: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    callback_tensors: Mapping[str, Tensor]


def take_snapshot(
    cursor: Cursor,
    network: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    callbacks: CallbackList,
    precision: Precision,
) -> TrainerSnapshot:
    """The trainer state as it is now; its tensors are those in use, and later steps change them."""
    tensors, scalars = _optimizer_state(network, optimizer)
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    document = {
        "schema": _SCHEMA,
        **asdict(cursor),
        "random_numbers": "derived from seed, step and microbatch",
        "torch": torch.__version__,
        "optimizer": {"name": type(optimizer).__name__, "scalars": scalars, "groups": groups},
        "schedule": schedule_state(schedule),
        "precision": precision.state_dict(),
        "callbacks": callbacks.state_dicts(),
    }
    return TrainerSnapshot(document=document, tensors=tensors, callback_tensors=callbacks.state_tensors())


def write_trainer(folder: Path, snapshot: TrainerSnapshot, *, main: bool, group: ProcessGroup | None) -> None:
    """Write a snapshot into the existing folder `folder`/trainer; called by all ranks alike.

    main: whether this rank writes what all ranks have. group: the ranks, None for one alone.
    """
    target = folder / FOLDER
    save_tensors(target / _OPTIMIZER, snapshot.tensors, group=group)
    if not main:
        return
    if kept := snapshot.callback_tensors:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}, target / _CALLBACKS)
    (target / STATE).write_text(json.dumps(snapshot.document, indent=1), encoding="utf-8")


def read_cursor(folder: Path) -> Cursor:
    """Read where the run of a checkpoint stands. Raises UserError when it holds no trainer state."""
    document = read_state(folder)
    return Cursor(**{name: document[name] for name in Cursor.__dataclass_fields__ if name in document})


def restore_trainer(
    folder: Path,
    network: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    callbacks: CallbackList,
    precision: Precision,
    *,
    group: ProcessGroup | None = None,
) -> None:
    """Put the saved state of optimizer, schedule, precision and callbacks into fresh ones, on all ranks alike.

    The state may have been saved by any number of ranks, copies or shards. Raises WorkerError where it
    belongs to other parameters or another optimizer.
    """
    document = read_state(folder)
    saved = document["optimizer"]
    if saved["name"] != type(optimizer).__name__:
        raise WorkerError(f"{folder} was saved with {saved['name']}, not {type(optimizer).__name__}")
    names = _parameter_names(network)
    trained = {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    file = folder / FOLDER / _OPTIMIZER
    tensors = {key: _like(header, trained, key) for key, header in read_header(file).items()}
    load_tensors(file, tensors, group=group)
    for key, value in [*tensors.items(), *saved["scalars"].items()]:
        parameter, _, entry = key.rpartition("/")
        _require_known(folder, parameter, trained)
        optimizer.state[trained[parameter]][entry] = value
    if tensors and (stateless := [name for name, parameter in trained.items() if not optimizer.state[parameter]]):
        raise WorkerError(f"{folder} holds the optimizer state of other parameters: not of {stateless[0]}")
    for options, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        options.update(values)
    if schedule is not None:
        restore_schedule(schedule, document["schedule"])
    precision.load_state_dict(document["precision"])
    callbacks.load_state_dicts(document["callbacks"])
    if (folder / FOLDER / _CALLBACKS).is_file():
        callbacks.load_state_tensors(load_file(folder / FOLDER / _CALLBACKS))


def _like(header: Mapping[str, Any], trained: Mapping[str, nn.Parameter], key: str) -> Tensor:
    """An empty tensor for a saved one: spread as its parameter where it has its shape, else whole."""
    name = key.rpartition("/")[0]
    dtype = DTYPES[header["dtype"]]
    parameter = trained.get(name)
    if parameter is not None and list(parameter.shape) == header["shape"]:
        return torch.zeros_like(parameter, dtype=dtype, memory_format=torch.contiguous_format).detach()
    # Step counts of fused optimizers lie where the parameters do.
    return torch.zeros(header["shape"], dtype=dtype, device=parameter.device if parameter is not None else "cpu")


def _require_known(folder: Path, name: str, trained: Mapping[str, nn.Parameter]) -> None:
    if name not in trained:
        raise WorkerError(f"{folder} holds the optimizer state of other parameters: {name}")


def schedule_state(schedule: LRScheduler | None) -> dict[str, Any]:
    """A schedule's JSON state; the functions of a LambdaLR are made anew from the recipe."""
    state = {} if schedule is None else schedule.state_dict()
    return {key: value for key, value in state.items() if key != _FUNCTIONS}


def restore_schedule(schedule: LRScheduler, state: Mapping[str, Any]) -> None:
    """Put a state of `schedule_state` into a fresh schedule of the same kind."""
    functions = getattr(schedule, _FUNCTIONS, None)
    schedule.load_state_dict({**state, **({_FUNCTIONS: [None] * len(functions)} if functions else {})})


def _optimizer_state(network: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names = _parameter_names(network)
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{names[id(parameter)]}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value.detach()
            elif value is not None:
                scalars[name] = value
    return tensors, scalars


def _parameter_names(network: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in network.named_parameters()}


def read_state(folder: Path, *, schema: int = _SCHEMA) -> dict[str, Any]:
    """The JSON part of a checkpoint's trainer state, whose layout `schema` names. Raises UserError and WorkerError."""
    file = folder / FOLDER / STATE
    if not file.is_file():
        raise UserError(
            f"checkpoint {folder} holds no trainer state, so the run can't continue from it",
            hint="it was saved with checkpointing.save_optimizer=false; start a new run with it as model.name",
        )
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if document.get("schema") != schema:
        raise WorkerError(f"{file} has schema {document.get('schema')}; this version reads {schema}")
    return document
