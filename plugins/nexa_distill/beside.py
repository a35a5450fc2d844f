"""Token rows with what a student's loss reads beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from nexa_torch.data.rows import Batch, Rows


class RowsWithMore(Dataset[Any], ABC):
    """Token rows and arrays that belong to them, a whole microbatch in one call."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Batch, dict[str, np.ndarray]]:
        """One row."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Batch, dict[str, np.ndarray]]:
        """Rows as wide as the longest of them, and what belongs to them."""
        batch = self.rows.take(list(indices))
        return batch, self.beside(batch, indices)

    @abstractmethod
    def beside(self, batch: Batch, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The arrays of a microbatch, by name."""
