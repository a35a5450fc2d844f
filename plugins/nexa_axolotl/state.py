"""A trainer's state files (`*.pt`, `*.pth`, pickle) as safetensors and JSON, and back. Runs beside torch.

transformers saves optimizer, schedule and random numbers with pickle, which runs code when it is read. What they
hold is plain: mappings, sequences, numbers, text, tensors and arrays. `store` writes exactly these; anything
else is refused by its place. `restore` makes the files anew for a run that continues.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nexa.errors import WorkerError

FOLDER = "trainer"
_PATTERNS = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_ALSO = ("trainer_state.json", "tokens_state.json")
DROPPED = ("training_args.bin",)
"""Pickled arguments, which come from the recipe again."""


def store(checkpoint: Path, target: Path) -> None:
    """Move the state out of a transformers checkpoint folder into `target`/trainer, without pickle.

    Raises WorkerError where a file holds something that is no plain value.
    """
    folder = target / FOLDER
    folder.mkdir(parents=True)
    for file in _state_files(checkpoint):
        _store_file(file, folder)
        file.unlink()
    for name in _ALSO:
        if (checkpoint / name).is_file():
            (checkpoint / name).replace(folder / name)
    for name in DROPPED:
        (checkpoint / name).unlink(missing_ok=True)


def drop(checkpoint: Path) -> None:
    """Remove the state from a transformers checkpoint folder: only weights, configuration and tokenizer stay."""
    for file in _state_files(checkpoint):
        file.unlink()
    for name in (*_ALSO, *DROPPED):
        (checkpoint / name).unlink(missing_ok=True)


def has_state(artifact: Path) -> bool:
    """Whether a stored checkpoint holds what a run needs to continue."""
    return (artifact / FOLDER / "trainer_state.json").is_file() and (artifact / FOLDER / "optimizer.pt.json").is_file()


def restore(artifact: Path, checkpoint: Path) -> None:
    """Make a transformers checkpoint folder of a stored one."""
    import torch

    checkpoint.mkdir(parents=True)
    for source in artifact.iterdir():
        if source.is_file() and source.name != "manifest.json":
            (checkpoint / source.name).symlink_to(source)
    for description in sorted((artifact / FOLDER).glob("*.json")):
        if description.name in _ALSO:
            (checkpoint / description.name).write_bytes(description.read_bytes())
        else:
            torch.save(_read(description), checkpoint / description.name.removesuffix(".json"))


def _state_files(checkpoint: Path) -> Iterable[Path]:
    return sorted(file for pattern in _PATTERNS for file in checkpoint.glob(pattern))


def _store_file(file: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    # Written by this very process a moment ago, so reading it runs no one else's code.
    value = torch.load(file, map_location="cpu", weights_only=False)
    description = _plain(value, file.name, tensors)
    if tensors:
        save_file(tensors, folder / f"{file.name}.safetensors")
    (folder / f"{file.name}.json").write_text(json.dumps(description), encoding="utf-8")


def _read(description: Path) -> Any:
    from safetensors.torch import load_file

    tensors_file = description.with_name(description.name.removesuffix(".json") + ".safetensors")
    tensors = load_file(tensors_file) if tensors_file.is_file() else {}
    return _value(json.loads(description.read_text(encoding="utf-8")), tensors)


def _plain(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """A value in JSON: scalars as they are, everything else as [kind, content]."""
    import numpy
    import torch

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else ["float", str(value)]
    if isinstance(value, torch.Tensor):
        tensors[place] = value.detach().clone().contiguous()
        return ["tensor", place]
    if isinstance(value, numpy.ndarray):
        # Same bits; safetensors knows fewer unsigned types than numpy.
        tensors[place] = torch.from_numpy(value.astype(value.dtype, copy=True).view(numpy.uint8).copy())
        return ["array", place, str(value.dtype), list(value.shape)]
    if isinstance(value, numpy.generic):
        return ["scalar", value.item(), str(value.dtype)]
    if isinstance(value, dict):
        pairs = [[_plain(k, place, tensors), _plain(v, f"{place}/{k}", tensors)] for k, v in value.items()]
        return ["dict", pairs]
    if isinstance(value, (list, tuple)):
        members = [_plain(member, f"{place}/{number}", tensors) for number, member in enumerate(value)]
        return ["tuple" if isinstance(value, tuple) else "list", members]
    raise WorkerError(f"{place} holds a {type(value).__name__}, which can't be stored without pickle")


def _value(content: Any, tensors: dict[str, Any]) -> Any:
    if not isinstance(content, list):
        return content
    kind, *rest = content
    return _KINDS[kind](rest, tensors)


def _array(rest: list[Any], tensors: dict[str, Any]) -> Any:
    import numpy

    name, dtype, shape = rest
    return tensors[name].numpy().view(numpy.dtype(dtype)).reshape(shape)


def _numpy_scalar(rest: list[Any], tensors: dict[str, Any]) -> Any:
    import numpy

    return numpy.dtype(rest[1]).type(rest[0])


_KINDS = {
    "float": lambda rest, tensors: float(rest[0]),
    "tensor": lambda rest, tensors: tensors[rest[0]],
    "array": _array,
    "scalar": _numpy_scalar,
    "dict": lambda rest, tensors: {_value(k, tensors): _value(v, tensors) for k, v in rest[0]},
    "list": lambda rest, tensors: [_value(member, tensors) for member in rest[0]],
    "tuple": lambda rest, tensors: tuple(_value(member, tensors) for member in rest[0]),
}
