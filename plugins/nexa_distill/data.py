"""Token rows with what a teacher predicted at their positions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from nexa.distilled import artifact_hash
from nexa_distill.aligned import AlignedDataset, collate_aligned
from nexa_distill.alignment import Aligner
from nexa_distill.beside import RowsWithMore
from nexa_distill.matching import RecordedRows, open_matching
from nexa_distill.teacher import TeacherName
from nexa_torch.data.language import LanguageDataModule, TokenBatch, collate
from nexa_torch.data.module import GlobalSampler, row_loader
from nexa_torch.data.rows import IGNORED, Batch, Rows
from nexa_torch.data.tokenizer import context_length, load_tokenizer

if TYPE_CHECKING:
    from nexa_distill.dataset import DistilledDataset

RECORDED = "teacher"
"""Key of a batch under which recorded predictions stand."""


class DistillDataModule(LanguageDataModule):
    """The recipe's rows; for an offline student with the recorded predictions of `distill.dataset`.

    recorded: those predictions, from `setup` on; None for other modes. aligner: from `setup` on, where the teacher has
    tokens of its own; else None.
    """

    recorded: RecordedRows | None = None
    aligner: Aligner | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open rows and predictions. Raises UserError and DataError where they do not belong together."""
        super().setup(stage)
        if self.recipe.distill.mode == "offline" and self.recorded is None:
            assert isinstance(self.data.train, Rows), "streamed data is refused before"
            self.recorded = RecordedRows(self.data.train, open_matching(self.recipe, self.data))
        if self.recipe.distill.cross_tokenizer == "uld" and self.aligner is None:
            teacher = TeacherName.of(self.recipe).section
            self.aligner = Aligner(self.tokenizer, load_tokenizer(teacher), longest=context_length(teacher))

    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[TokenBatch], GlobalSampler]:
        """Loader of this rank's microbatches."""
        rows = self.data.train
        if self.recorded is None and self.aligner is None:
            return super().train_dataloader(rank, world_size)
        assert isinstance(rows, Rows), "streamed data is refused before"
        if self.recorded is not None:
            recorded = RecordedDataset(rows, self.recorded)
            return row_loader(self.recipe, recorded, rank, world_size, train=True, collate=collate_recorded)
        assert self.aligner is not None
        aligned = AlignedDataset(rows, self.aligner)
        return row_loader(self.recipe, aligned, rank, world_size, train=True, collate=collate_aligned)

    def lineage(self) -> dict[str, Any]:
        """Training data, and the distilled dataset by its teacher and files."""
        own = super().lineage()
        return own if self.recorded is None else {**own, **recorded_lineage(self.recorded.dataset)}

    def fingerprint(self) -> str:
        """SHA-256 of the training data, and of the recorded predictions where there are some, in hex."""
        own = super().fingerprint()
        return own if self.recorded is None else recorded_fingerprint(own, self.recorded.dataset)

    def inputs(self) -> Sequence[str]:
        """The documents, and the distilled dataset where it is an artifact."""
        return (
            super().inputs() if self.recorded is None else recorded_inputs(super().fingerprint(), self.recorded.dataset)
        )


def recorded_inputs(of_rows: str, dataset: DistilledDataset) -> list[str]:
    """Hashes of what a student is made from: the training rows, and a distilled dataset of the artifact store."""
    artifact = artifact_hash(dataset.path)
    return [f"sha256:{of_rows}", *([artifact] if artifact else [])]


def recorded_lineage(dataset: DistilledDataset) -> dict[str, Any]:
    """What checkpoints record of a distilled dataset: its teacher and files."""
    index = dataset.index
    shards = [shard["sha256"] for shard in index["shards"]]
    return {"distilled": {"teacher": index["teacher"], "record": index["record"], "shards": shards}}


def recorded_fingerprint(of_rows: str, dataset: DistilledDataset) -> str:
    """SHA-256 over that of the rows and those of a distilled dataset's shards, in hex."""
    shards = (shard["sha256"] for shard in dataset.index["shards"])
    return hashlib.sha256("\n".join([of_rows, *shards]).encode()).hexdigest()


class RecordedDataset(RowsWithMore):
    """Token rows and their predictions, `recorded`."""

    def __init__(self, rows: Rows, recorded: RecordedRows) -> None:
        super().__init__(rows)
        self.recorded = recorded

    def beside(self, batch: Batch, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The predictions of the labelled positions."""
        labelled = batch.labels.ravel() != IGNORED
        places = self.rows.places(indices, batch.input_ids.shape[1]).ravel()[labelled]
        return self.recorded.entries(places, batch.input_ids.ravel()[labelled])


def collate_recorded(item: tuple[Batch, dict[str, np.ndarray]]) -> TokenBatch:
    """The batch as tensors; positions of the predictions count the labelled ones, row by row."""
    batch, entries = item
    return {**collate(batch), RECORDED: entry_tensors(entries)}


def entry_tensors(entries: dict[str, np.ndarray]) -> dict[str, Any]:
    """Entries as TeacherEntries takes them: tensors, but "ends", which stays on the host."""
    return {name: array if name == "ends" else torch.from_numpy(array) for name, array in entries.items()}
