"""Rows that a student learns from: with recorded predictions, beside a teacher, or as prompts to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nexa.errors import UserError
from nexa_distill.data import (
    RECORDED,
    RecordedDataset,
    entry_tensors,
    recorded_fingerprint,
    recorded_inputs,
    recorded_lineage,
)
from nexa_distill.matching import RecordedRows, open_matching
from nexa_hf.data import collate_rows, row_data
from nexa_hf.methods.base import COUNT, TrainingData
from nexa_torch.data.language import RowsDataset
from nexa_torch.data.rows import IGNORED, Batch, Rows

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress
    from nexa.recipe.schema import Recipe
    from nexa_torch.data.prepare import PreparedData

BY_STUDENT = "by_student"
"""Entry of a microbatch whose answers the student wrote."""
_SCANNED_ROWS = 1024


def student_rows(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    """The training rows of method distill.

    Raises UserError where recorded predictions or prompts are not what the recipe needs, DataError.
    """
    if recipe.distill.mode == "offline":
        return _recorded(row_data(recipe, on_progress, lambda data, rows: _with_predictions(recipe, data, rows)))
    if recipe.distill.mode == "on_policy":
        return _with_room(recipe, row_data(recipe, on_progress, lambda data, rows: PromptRows(rows)))
    return row_data(recipe, on_progress)


def _with_predictions(recipe: Recipe, data: PreparedData, rows: Rows) -> RecordedDataset:
    return RecordedDataset(rows, RecordedRows(rows, open_matching(recipe, data)))


def _recorded(found: TrainingData) -> TrainingData:
    dataset = found.train.recorded.dataset
    return replace(
        found,
        fingerprint=recorded_fingerprint(found.fingerprint, dataset),
        lineage={**found.lineage, **recorded_lineage(dataset)},
        inputs=recorded_inputs(found.fingerprint, dataset),
    )


class PromptRows(RowsDataset):
    """Rows of one document each, whose last answer may be written anew. longest_prompt: tokens before that answer."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        starts = range(0, len(rows), _SCANNED_ROWS)
        taken = (rows.take(range(start, min(start + _SCANNED_ROWS, len(rows)))) for start in starts)
        self.longest_prompt = max((int(prompt_lengths(batch.labels).max()) for batch in taken), default=0)


def _with_room(recipe: Recipe, found: TrainingData) -> TrainingData:
    """The data with rows long enough for the longest prompt and answer. Raises UserError where there are no prompts."""
    longest = found.train.longest_prompt
    if longest <= 1:
        raise UserError(
            "the data has no prompts that a model could answer",
            hint="distill.mode=on_policy needs conversations, or prompts with answers",
        )
    room = longest + recipe.rollouts.max_completion_length
    return replace(found, row_length=max(found.row_length, room))


def prompt_lengths(labels: np.ndarray) -> np.ndarray:
    """Tokens of each row before its last answer, the last unbroken span of labelled positions; int64 [rows].

    labels: [rows, width], of each position the token that it predicts, or IGNORED. 0 for a row without labels.
    """
    trained = labels != IGNORED
    before = np.zeros_like(trained)
    before[:, 1:] = trained[:, :-1]
    place = np.arange(1, trained.shape[1] + 1)
    return (np.where(trained & ~before, place, 0)).max(axis=1)


def collate_student(item: Batch | tuple[Batch, dict[str, np.ndarray]]) -> dict[str, Any]:
    """A microbatch as `nexa_hf.data.collate_rows` makes it, with recorded predictions where it has some."""
    if isinstance(item, Batch):
        return dict(collate_rows(item))
    batch, entries = item
    return {**collate_rows(batch), RECORDED: entry_tensors(entries)}


def answered(prompts: Sequence[list[int]], answers: Sequence[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """A microbatch of prompts with other answers, which alone are labelled, as `collate_rows` makes one."""
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    input_ids = torch.full((len(prompts), width), pad, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    return {
        "input_ids": input_ids,
        # Padding stands behind all that carries loss, so causal attention hides it.
        "position_ids": torch.arange(width).repeat(len(prompts), 1),
        "labels": labels,
        "shift_labels": labels,
        COUNT: torch.tensor(sum(map(len, prompts)) + sum(map(len, answers))),
    }
