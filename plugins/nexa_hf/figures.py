"""Means of what a method measures beside its loss, over the tokens of all steps since the last record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from accelerate.utils import gather_object
from torch import Tensor

_SUM, _COUNT = "sum of ", "count of "


@dataclass
class Figures:
    """Sums and counts of this process since the last record, by name."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Add sums over `count` tokens."""
        for name, total in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(total)
            self.counts[name] = self.counts.get(name, 0.0) + count

    def means(self) -> dict[str, float]:
        """The means over all processes; begins anew. Called on every process alike."""
        sums, counts = (_together(part) for part in (self.sums, self.counts))
        self.sums, self.counts = {}, {}
        return {name: total / counts[name] for name, total in sums.items() if counts[name]}

    def progress(self) -> dict[str, float]:
        """Sums and counts as one mapping, for a checkpoint."""
        of_sums = {f"{_SUM}{name}": value for name, value in self.sums.items()}
        return of_sums | {f"{_COUNT}{name}": value for name, value in self.counts.items()}

    def restore(self, progress: Mapping[str, float]) -> None:
        """Continue from what `progress` returned, among other values."""
        for prefix, part in ((_SUM, self.sums), (_COUNT, self.counts)):
            part.update({name.removeprefix(prefix): x for name, x in progress.items() if name.startswith(prefix)})


def _together(values: Mapping[str, float]) -> dict[str, float]:
    """Values of all processes added by name; a process may lack some."""
    total: dict[str, float] = {}
    for part in gather_object([dict(values)]):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total
