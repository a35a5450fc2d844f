"""Token rows as a data module: what the language-model tasks train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nexa.errors import UserError
from nexa_torch.data.module import BaseDataModule, GlobalSampler, row_loader
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import IGNORED, Batch, Rows
from nexa_torch.data.streaming import StreamedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenBatch = dict[str, Any]
"""int64 tensors "input_ids", "labels", "positions" of [rows, width], and the counts "tokens" and "trained_tokens"."""


class LanguageDataModule(BaseDataModule):
    """Text, conversations or tokens as rows for a causal language model, as the recipe's `data` says."""

    prefetch: ClassVar[bool] = True

    formats: ClassVar[frozenset[str]] = frozenset()
    """Values of `data.format` that this module takes; with one of them "auto" stands for it. Empty takes all."""

    def __init__(self, config: Any) -> None:
        """See `BaseDataModule`. Raises UserError where `data.format` is none that this module takes."""
        super().__init__(config)
        wanted = self.recipe.data.format
        if self.formats and wanted == "auto" and len(self.formats) == 1:
            data = self.recipe.data.model_copy(update={"format": next(iter(self.formats))})
            self.recipe = self.recipe.model_copy(update={"data": data})
        elif self.formats and wanted not in (*self.formats, "auto"):
            raise UserError(
                f"{type(self).__name__} takes no rows of format {wanted!r}",
                hint=f"set data.format to {' or '.join(sorted(self.formats))}, or use LanguageDataModule",
            )
        self._data: PreparedData | None = None

    @property
    def data(self) -> PreparedData:
        """The rows, from `setup` on."""
        assert self._data is not None, "setup comes first"
        return self._data

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the rows were made with."""
        return self.data.tokenizer

    def prepare_data(self) -> None:
        """Encode and pack the data and keep it in the cache folder, where it is not yet. Raises DataError."""
        self._data = prepare_data(self.recipe, on_progress=self.on_progress)

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared rows; whichever process comes first makes them. Raises DataError."""
        if self._data is None:
            self._data = prepare_data(self.recipe, on_progress=self.on_progress)

    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[TokenBatch], GlobalSampler]:
        """Loader of this rank's microbatches."""
        rows = self.data.train
        return row_loader(
            self.recipe, RowsDataset(rows), rank, world_size, train=True, shuffle=not rows.ordered, collate=collate
        )

    def val_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[TokenBatch], GlobalSampler] | None:
        """Loader of held-out rows in order; None where the recipe holds nothing out."""
        rows = self.data.validation
        if rows is None:
            return None
        return row_loader(self.recipe, RowsDataset(rows), rank, world_size, train=False, collate=collate)

    def place(self, row: int) -> dict[str, Any]:
        """Of streamed rows where the window of row `row` begins in its source; see `StreamedRows.cursor`."""
        rows = self.data.train
        return rows.cursor(row) if isinstance(rows, StreamedRows) else {}

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Enter the source at a window, without a look at what stands before it."""
        rows = self.data.train
        if place and isinstance(rows, StreamedRows):
            rows.restore(place)

    def fingerprint(self) -> str:
        """SHA-256 of the training data, in hex."""
        return self.data.dataset_hash

    def lineage(self) -> dict[str, Any]:
        """Hash and number of the training documents."""
        return {"dataset": {"hash": f"sha256:{self.data.dataset_hash}", "documents": self.data.documents}}

    def notes(self) -> Sequence[str]:
        """The counts of documents, tokens and rows."""
        return (self.data.summary,)

    def warnings(self) -> Sequence[str]:
        """What preparation found wrong with the data."""
        return self.data.warnings


class TextDataModule(LanguageDataModule):
    """Plain text, every token of it trained on; `data.format` must be text or told so from the rows."""

    formats = frozenset({"text"})


class ChatDataModule(LanguageDataModule):
    """Conversations, pairs and instructions through the chat template."""

    formats = frozenset({"messages", "prompt_response", "instruction"})


class TokenizedDataModule(LanguageDataModule):
    """Token ids made elsewhere: JSON Lines, Parquet or NumPy files."""

    formats = frozenset({"tokens"})


class RowsDataset(Dataset[Batch]):
    """Token rows as a torch data set, which gives a whole microbatch in one call."""

    def __init__(self, rows: Rows | StreamedRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        """One row."""
        return self._rows.take([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Rows as wide as the longest of them."""
        return self._rows.take(list(indices))


def collate(batch: Batch) -> TokenBatch:
    """The batch as tensors, with its counts.

    Padding continues the positions of the row's last document: it is behind everything that carries
    loss, so causal attention hides it, and a row of one document needs no mask.
    """
    positions = batch.positions
    padding = batch.document < 0
    if padding.any():
        width = np.arange(positions.shape[1])
        last = positions.shape[1] - 1 - padding.sum(axis=1)
        beyond = positions[np.arange(len(last)), last][:, None] + width[None, :] - last[:, None]
        positions = np.where(padding, beyond, positions)
    arrays = {"input_ids": batch.input_ids, "labels": batch.labels, "positions": positions}
    tensors: dict[str, Tensor] = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
    return {
        **tensors,
        "tokens": padding.size - int(padding.sum()),
        "trained_tokens": int((batch.labels != IGNORED).sum()),
    }
