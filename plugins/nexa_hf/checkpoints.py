"""Trainer state next to a checkpoint's weights: safetensors and JSON, never pickle.

`trainer/optimizer.safetensors` holds the optimizer's tensors, whole, named by parameter; `trainer/state.json` the
rest of it, the schedule, the loss scale, where the run stands and what must be the same for it to continue;
`trainer/rank-N.safetensors` and `trainer/rank-N.json` the random numbers of process N;
`trainer_state.json` is transformers' own record, at its usual place.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from nexa.errors import UserError, WorkerError
from nexa_hf.arguments import SEED_LIMIT
from nexa_torch.checkpoint import FOLDER, STATE
from nexa_torch.checkpoint import read_state as read_any_state

BACKEND = "hf"
_OPTIMIZER = "optimizer.safetensors"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a run stands, and what must be the same for it to continue exactly.

    step: finished optimizer steps. tokens_seen: tokens trained on by all ranks, padding not counted.
    dataset_hash, rows: of the training data. metrics: the latest figures. early_stopping: its count.
    evaluation_due: the step's evaluation was not finished.
    """

    step: int
    total_steps: int
    tokens_seen: int
    method: str
    dataset_hash: str
    rows: int
    global_batch_size: int
    world_size: int
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    early_stopping: dict[str, Any] = field(default_factory=dict)
    evaluation_due: bool = False


_SAME = ("method", "dataset_hash", "rows", "global_batch_size", "seed", "total_steps")


def require_same_run(now: Cursor, saved: Cursor) -> None:
    """Refuse to continue with other data or batches. Raises UserError naming what differs."""
    changed = [
        f"{key} was {getattr(saved, key)} and is {getattr(now, key)}"
        for key in _SAME
        if getattr(saved, key) != getattr(now, key)
    ]
    if changed:
        processes = (
            f", on {now.world_size} instead of {saved.world_size} processes: set training.global_batch_size"
            if now.world_size != saved.world_size
            else ""
        )
        raise UserError(
            f"the run can't continue exactly: {'; '.join(changed)}",
            hint=f"restore the data and recipe of the run{processes}, or start a new run with its checkpoint as "
            "model.name",
        )


def read_cursor(folder: Path) -> Cursor:
    """Where the run of a checkpoint stands. Raises UserError when it holds no trainer state of this backend."""
    document = read_state(folder)
    return Cursor(**{name: document[name] for name in Cursor.__dataclass_fields__})


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint's trainer state. Raises UserError and WorkerError."""
    document = read_any_state(folder, schema=_SCHEMA)
    if document.get("backend") != BACKEND:
        raise UserError(
            f"checkpoint {folder} was saved by another backend", hint="start a new run with it as model.name"
        )
    return document


def write_state(
    folder: Path,
    cursor: Cursor,
    *,
    schedule: Mapping[str, Any],
    scaler: Mapping[str, Any],
    optimizer: Mapping[str, Any],
) -> None:
    """Write the JSON part; the folder's `trainer` exists."""
    document = {
        "schema": _SCHEMA,
        "backend": BACKEND,
        **asdict(cursor),
        "optimizer": optimizer,
        "schedule": schedule,
        "scaler": scaler,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (folder / FOLDER / STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors, whole and on the CPU, and its other values; to be called on every rank.

    On ranks other than 0 of a sharded model both are empty.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {}
    for name, entries in state.get("state", {}).items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().clone().contiguous()
            elif value is not None:
                others[f"{name}/{key}"] = value
    return tensors, {"values": others, "groups": state.get("param_groups", [])}


def write_optimizer(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the optimizer's tensors; the folder's `trainer` exists."""
    save_file(dict(tensors), folder / FOLDER / _OPTIMIZER)


def restore_optimizer(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's optimizer state into a fresh optimizer, on all ranks alike. Raises WorkerError."""
    saved = read_state(folder)["optimizer"]
    state: dict[str, dict[str, Any]] = {}
    entries = {**load_file(folder / FOLDER / _OPTIMIZER), **saved["values"]}
    for key, value in entries.items():
        name, _, entry = key.rpartition("/")
        state.setdefault(name, {})[entry] = value
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    try:
        set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": saved["groups"]}, options=options)
    except (KeyError, RuntimeError, ValueError) as error:
        raise WorkerError(f"{folder} holds the optimizer state of other parameters: {error}") from error


def write_random_state(folder: Path, rank: int, progress: Mapping[str, float]) -> None:
    """Write this process's random-number generators, and `progress`, what it alone counts."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    document = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, position, has_gauss, cached],
        "progress": dict(progress),
    }
    tensors = {"cpu": torch.random.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.random.get_rng_state()
    base = folder / FOLDER / f"rank-{rank}"
    base.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")
    save_file(tensors, base.with_suffix(".safetensors"))


def restore_random_state(folder: Path, rank: int, cursor: Cursor) -> None:
    """Continue this process's random numbers; on another number of processes than the run had, which has none of
    them, draw new ones from seed and step. Raises WorkerError where the checkpoint lacks them.

    cursor: where the run stands now.
    """
    if read_cursor(folder).world_size != cursor.world_size:
        transformers.set_seed((cursor.seed + cursor.step) % SEED_LIMIT)
        return
    document, tensors = _random_state(folder, rank)
    version, numbers, gauss = document["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, position, has_gauss, cached = document["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.random.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.random.set_rng_state(tensors["cuda"])


def read_progress(folder: Path, rank: int, world_size: int) -> dict[str, float]:
    """What this process alone had counted when the checkpoint was saved; the mean of all that counted, where they
    were not as many as now."""
    saved = read_cursor(folder).world_size
    ranks = [rank] if saved == world_size else range(saved)
    counted: list[dict[str, float]] = [_random_state(folder, each)[0]["progress"] for each in ranks]
    return {name: sum(each[name] for each in counted) / len(counted) for name in counted[0]}


def _random_state(folder: Path, rank: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    base = folder / FOLDER / f"rank-{rank}"
    if not base.with_suffix(".json").is_file():
        raise WorkerError(f"checkpoint {folder} holds no state of process {rank}")
    document = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
    return document, load_file(base.with_suffix(".safetensors"))
