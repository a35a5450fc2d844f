"""The first batch of a recipe as its trainer will see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler

from nexa.backend import Preview, PreviewToken
from nexa.batch import BatchPlan, resolve_batch
from nexa.plan import resources_of
from nexa_hf.arguments import SEED_LIMIT
from nexa_hf.data import documents
from nexa_hf.methods.sft import unpacked
from nexa_torch.data.display import row_tokens, token_text
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import IGNORED

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def preview_rows(recipe: Recipe) -> Preview:
    """The first microbatch of rows that Nexa packed. Raises DataError."""
    batch = _batch(recipe)
    data = prepare_data(recipe)
    chosen = _first(len(data.train), batch, recipe)
    rows = row_tokens(data.train.take(chosen), token_text(data.tokenizer))
    return _preview(recipe, data, rows, len(data.train), batch)


def preview_documents(recipe: Recipe) -> Preview:
    """The first microbatch of documents, packed by TRL where the recipe says so. Raises DataError."""
    batch = _batch(recipe)
    data = prepare_data(unpacked(recipe))
    text_of = token_text(data.tokenizer)
    table = documents(data.train)
    if recipe.data.packing:
        from trl import pack_dataset

        table = pack_dataset(table, data.row_length, "bfd")
    rows = [_tokens(table[index], text_of) for index in _first(len(table), batch, recipe)]
    return _preview(recipe, data, rows, len(table), batch)


def _batch(recipe: Recipe) -> BatchPlan:
    return resolve_batch(recipe.training, resources_of(recipe).world_size)


def _first(rows: int, batch: BatchPlan, recipe: Recipe) -> list[int]:
    """Rows of the first microbatch of the first process, in the order of the trainer's sampler."""
    generator = torch.Generator()
    sampler = SeedableRandomSampler(range(rows), generator=generator, data_seed=recipe.training.seed % SEED_LIMIT)
    return list(sampler)[: batch.microbatch_size]


def _tokens(row: dict[str, Any], text_of: Any) -> list[PreviewToken]:
    lengths = row.get("seq_lengths") or [len(row["input_ids"])]
    document = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.concatenate(([True], np.diff(document) > 0))
    return [
        PreviewToken(id=token, text=text_of(token), trained=label != IGNORED and not first, document=int(number))
        for token, label, first, number in zip(row["input_ids"], row["labels"], starts, document, strict=True)
    ]


def _preview(
    recipe: Recipe, data: PreparedData, rows: Sequence[Sequence[PreviewToken]], count: int, batch: BatchPlan
) -> Preview:
    training = recipe.training
    steps = math.ceil(count / batch.global_batch_size)
    return Preview(
        rows=rows,
        documents=data.documents,
        tokens=data.train.token_count,
        trained_tokens=data.train.trained_token_count,
        total_steps=training.max_steps or math.ceil(steps * (training.epochs or 1.0)),
        warnings=tuple(data.warnings),
    )
