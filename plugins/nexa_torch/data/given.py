"""Data sets that a script brings, as a data module: rows (input, target), or mappings as transformers takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset
from torch.utils.data import default_collate as stack

from nexa.errors import DataError, UserError
from nexa_torch.data.module import BaseDataModule, GlobalSampler, make_loader
from nexa_torch.data.rows import IGNORED

Collate = Callable[[list[Any]], Any]


class GivenDataModule(BaseDataModule):
    """Batches of data sets that exist already.

    train, validation: torch or Hugging Face data sets, or anything with `len` and an index; or something
    to iterate over, which is read in its own order, every `world_size`-th row on each rank.
    collate: from rows to a batch; default `collate_rows`.
    """

    def __init__(
        self, config: Any, train: Any = None, validation: Any = None, *, collate: Collate | None = None
    ) -> None:
        super().__init__(config)
        self._train, self._validation = train, validation
        self._collate = collate or collate_rows

    def prepare_data(self) -> None:
        """Nothing: the data sets are there."""

    def setup(self, stage: str | None = None) -> None:
        """Refuse an empty data set. Raises DataError."""
        for name, data in (("train_dataset", self._train), ("eval_dataset", self._validation)):
            if data is not None and _is_indexed(data) and not len(data):
                raise DataError(f"{name} is empty")

    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Sampler[Any]]:
        """Loader of this rank's microbatches, shuffled by the recipe's seed."""
        return self._loader(self._train, rank, world_size, shuffle=True)

    def val_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Sampler[Any]] | None:
        """Loader of the held-out rows in order; None without them."""
        if self._validation is None:
            return None
        return self._loader(self._validation, rank, world_size, shuffle=False)

    def fingerprint(self) -> str:
        """The hash that Hugging Face data sets keep of themselves, or of the tensors of a TensorDataset.

        "" for others, whose length alone is compared.
        """
        if isinstance(self._train, TensorDataset):
            return self._tensors_hash
        return str(getattr(self._train, "_fingerprint", ""))

    def lineage(self) -> dict[str, Any]:
        """Class and size of the training data, and its hash where there is one."""
        size = len(self._train) if _is_indexed(self._train) else None
        found = {"class": _class_name(self._train), "rows": size, "fingerprint": self.fingerprint() or None}
        return {"dataset": found}

    def notes(self) -> Sequence[str]:
        """How many rows there are."""
        size = f"{len(self._train):,} rows" if _is_indexed(self._train) else "a stream of rows"
        held_out = self._validation
        more = f"; held out: {len(held_out):,}" if held_out is not None and _is_indexed(held_out) else ""
        return (f"{_class_name(self._train)}: {size}{more}",)

    @cached_property
    def _tensors_hash(self) -> str:
        """SHA-256 in hex of shapes, types and bytes of the training data's tensors."""
        digest = hashlib.sha256()
        for tensor in self._train.tensors:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _loader(self, data: Any, rank: int, world_size: int, *, shuffle: bool) -> tuple[DataLoader[Any], Sampler[Any]]:
        training = self.recipe.training
        workers = self.recipe.data.loader_workers if shuffle else 0
        if not _is_indexed(data):
            sampler = _StreamOrder(data)
            loader = DataLoader(
                _Share(data, rank, world_size),
                batch_size=training.microbatch_size_per_gpu,
                collate_fn=self._collate,
            )
            return loader, sampler
        order = GlobalSampler(
            len(data),
            batch_size=training.microbatch_size_per_gpu,
            seed=training.seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
        )
        return make_loader(data, order, workers=workers, collate=self._collate), order


class _Share(IterableDataset[Any]):
    """Every `world_size`-th row of a stream, from `rank` on."""

    def __init__(self, rows: Any, rank: int, world_size: int) -> None:
        self._rows, self._rank, self._world_size = rows, rank, world_size

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._rows), self._rank, None, self._world_size)


class _StreamOrder(Sampler[Any]):
    """Stands for the order of a stream, which is its own; tells it the epoch where it wants to know."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a stream that shuffles by it."""
        if hasattr(self._rows, "set_epoch"):
            self._rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def collate_rows(rows: list[Any], *, pad_id: int = 0) -> Any:
    """A batch of rows: tensors are stacked; token lists of different lengths are padded on the right.

    In mappings, lists of numbers become int64 or fp32 tensors; `labels` are padded with -100, which carries
    no loss, everything else with 0 (`input_ids` with `pad_id`), and an `attention_mask` is added to padded
    `input_ids` that have none. Raises DataError for rows that differ in their keys.
    """
    if not rows or not isinstance(rows[0], Mapping):
        return stack(rows)
    keys = list(rows[0])
    for row in rows:
        if list(row) != keys and set(row) != set(keys):
            raise DataError(f"rows of a batch differ in their keys: {', '.join(keys)} and {', '.join(map(str, row))}")
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows]
        sequences = [_sequence(value) for value in values]
        if any(sequence is None for sequence in sequences):
            batch[key] = stack(values)
            continue
        tensors = [sequence for sequence in sequences if sequence is not None]
        if key == "input_ids" and "attention_mask" not in keys and len({len(tensor) for tensor in tensors}) > 1:
            batch["attention_mask"] = _padded([torch.ones_like(tensor) for tensor in tensors], 0)
        batch[key] = _padded(tensors, fill.get(key, 0))
    return batch


def _sequence(value: Any) -> Tensor | None:
    """A row's list of numbers as a vector, None for anything else."""
    if isinstance(value, Tensor):
        return value if value.ndim == 1 else None
    if isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        return torch.tensor(value)
    return None


def _padded(tensors: list[Tensor], value: int) -> Tensor:
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _is_indexed(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def _class_name(data: Any) -> str:
    return f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")


def require_dataset(data: Any, name: str) -> None:
    """Raise UserError for something that gives no rows."""
    if not (isinstance(data, Dataset) or _is_indexed(data) or hasattr(data, "__iter__")):
        raise UserError(
            f"{name} is a {type(data).__name__}, which gives no rows",
            hint="give a torch Dataset, a Hugging Face data set, or a list of (input, target) or of mappings",
        )
