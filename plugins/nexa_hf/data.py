"""The recipe's data as the trainers take it, made from the same encoded documents as Nexa's own engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nexa_hf.methods.base import COUNT, TrainingData
from nexa_torch.data.language import RowsDataset, collate
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import IGNORED, Batch, Rows

if TYPE_CHECKING:
    from datasets import Dataset

    from nexa.backend import PrepareProgress
    from nexa.recipe.schema import Recipe

_BLOCK_ROWS = 4096


def row_data(
    recipe: Recipe,
    on_progress: PrepareProgress,
    training: Callable[[PreparedData, Rows], Any] = lambda data, rows: RowsDataset(rows),
) -> TrainingData:
    """Rows as torch data sets: packed by Nexa, every prediction labelled. Raises DataError.

    training: makes the data set of the training rows.
    """
    data = prepare_data(recipe, on_progress=on_progress)
    train, evaluation = _rows(data)
    held_out = None if evaluation is None else RowsDataset(evaluation)
    return _training_data(data, train=training(data, train), evaluation=held_out, notes=[data.summary])


def document_data(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    """Documents as data sets with columns input_ids and labels, in the data's order. Raises DataError.

    A document longer than a row is cut into rows. Labels are those of the tokens themselves, as TRL takes them, so
    the token behind a cut is predicted by no row.
    """
    data = prepare_data(recipe, on_progress=on_progress)
    train, evaluation = _rows(data)
    notes = [f"{data.documents:,} documents: {data.train.token_count:,} tokens in {len(data.train):,} examples"]
    held_out = None if evaluation is None else documents(evaluation)
    return _training_data(data, train=documents(train), evaluation=held_out, notes=notes)


def collate_rows(batch: Batch) -> dict[str, torch.Tensor]:
    """A microbatch as a causal language model of transformers takes it.

    int64 [rows, width]: input_ids; position_ids, which restart at each document and keep documents apart;
    shift_labels, the token that each position predicts; labels, which the model wants before it computes a loss.
    token_count: tokens that are no padding.
    """
    tensors = collate(batch)
    return {
        "input_ids": tensors["input_ids"],
        "position_ids": tensors["positions"],
        "labels": tensors["labels"],
        "shift_labels": tensors["labels"],
        COUNT: torch.tensor(tensors["tokens"]),
    }


def documents(rows: Rows) -> Dataset:
    """Rows of one document each as a `datasets.Dataset` of input_ids and labels, int32 lists, held in memory."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    columns: Mapping[str, list[Any]] = {"input_ids": [], "labels": []}
    for tokens, labels, lengths in _blocks(rows):
        ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        columns["input_ids"].append(pa.ListArray.from_arrays(pa.array(ends), pa.array(tokens)))
        columns["labels"].append(pa.ListArray.from_arrays(pa.array(ends), pa.array(labels)))
    return Dataset(InMemoryTable(pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()})))


def _blocks(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tokens and labels of consecutive rows, flat, without padding, and how many of them each row has."""
    for start in range(0, len(rows), _BLOCK_ROWS):
        batch = rows.take(range(start, min(start + _BLOCK_ROWS, len(rows))))
        held = batch.document >= 0
        labels = np.full_like(batch.labels, IGNORED)
        labels[:, 1:] = batch.labels[:, :-1]
        yield batch.input_ids[held], labels[held], held.sum(axis=1)


def _rows(data: PreparedData) -> tuple[Rows, Rows | None]:
    assert isinstance(data.train, Rows), "streamed data is refused by the settings"
    return data.train, data.validation


def _training_data(data: PreparedData, *, train: Any, evaluation: Any, notes: list[str]) -> TrainingData:
    largest = max(rows.largest_token_id for rows in (data.train, data.validation) if rows is not None)
    return TrainingData(
        tokenizer=data.tokenizer,
        train=train,
        evaluation=evaluation,
        fingerprint=data.dataset_hash,
        rows=len(data.train),
        row_length=data.row_length,
        largest_token=largest,
        notes=notes,
        warnings=data.warnings,
        lineage={"dataset": {"hash": f"sha256:{data.dataset_hash}", "documents": data.documents}},
    )
