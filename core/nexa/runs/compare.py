"""Several runs next to each other: settings and metrics in which they differ, curves on one grid of steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexa.errors import NexaError, UserError
from nexa.events.metrics import MetricsReader, MetricTable
from nexa.runs.changes import flat

if TYPE_CHECKING:
    from nexa.runs.store import Run

MOST_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting in which runs differ: a dotted key and each run's value, None where one lacks it."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """One metric in which runs differ.

    step: the last one that all runs with this metric have reached, None where they share none.
    values: at that step, or the newest before it; the newest of all without such a step; None for runs
    without the metric. last: each run's newest value.
    """

    name: str
    step: int | None
    values: tuple[float | None, ...]
    last: tuple[float | None, ...]


class Comparison:
    """Runs to be compared, the baseline first. Raises UserError for fewer than two runs, more than 8, or one twice."""

    def __init__(self, runs: Sequence[Run]) -> None:
        if not 2 <= len(runs) <= MOST_RUNS:
            raise UserError(f"{len(runs)} run(s) can't be compared", hint=f"choose 2 to {MOST_RUNS}")
        ids = [run.run_id for run in runs]
        twice = next((run_id for run_id in ids if ids.count(run_id) > 1), None)
        if twice is not None:
            raise UserError(f"run {twice} is named twice", hint="choose different runs")
        self.runs = tuple(runs)
        self._readers = [MetricsReader(run.path / "events") for run in runs]

    def poll(self) -> bool:
        """Read what is new in the runs' events; returns whether there was anything."""
        return sum(reader.poll() for reader in self._readers) > 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, of training and evaluation, in the order in which they first appear."""
        tables = [table for reader in self._readers for table in (reader.training, reader.evaluation)]
        return tuple(dict.fromkeys(name for table in tables for name in table.columns))

    def settings(self) -> list[Difference]:
        """Fields of the recipes, and facts of data, code and packages, that are not the same in all runs.

        A run whose documents are damaged has None everywhere.
        """
        documents = [_facts(run) for run in self.runs]
        paths = dict.fromkeys(path for document in documents for path in document)
        rows = ((path, tuple(document.get(path) for document in documents)) for path in paths)
        return [Difference(path=path, values=values) for path, values in rows if not _all_equal(values)]

    def metric_differences(self) -> list[MetricDifference]:
        """Metrics that are not the same in all runs."""
        found = [self._difference(name) for name in self.metrics]
        return [row for row in found if not (_all_equal(row.values) and _all_equal(row.last))]

    def _difference(self, name: str) -> MetricDifference:
        tables = [_table_with(reader, name) for reader in self._readers]
        ends = [_newest(table, name) if table is not None else None for table in tables]
        step = min((end[0] for end in ends if end is not None), default=None)
        shared = [_newest(table, name, step) if table is not None else None for table in tables]
        if any(end is not None and point is None for end, point in zip(ends, shared, strict=True)):
            step, shared = None, ends
        return MetricDifference(
            name=name,
            step=step,
            values=tuple(point[1] if point is not None else None for point in shared),
            last=tuple(end[1] if end is not None else None for end in ends),
        )

    def rows(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, int, tuple[float | None, ...]]]:
        """(metric, step, each run's value) over all steps that any run has; None where a run has no point there."""
        for name in self.metrics if names is None else names:
            tables = [_table_with(reader, name) for reader in self._readers]
            points = [dict(zip(*table.series(name), strict=True)) if table is not None else {} for table in tables]
            for step in sorted({step for run in points for step in run}):
                yield name, step, tuple(run.get(step) for run in points)

    def csv(self, names: Sequence[str] | None = None) -> str:
        """`rows` as comma-separated values under a heading with the run ids."""
        import csv
        import io

        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["metric", "step", *(run.run_id for run in self.runs)])
        for name, step, values in self.rows(names):
            writer.writerow([name, step, *("" if value is None else value for value in values)])
        return stream.getvalue()


def change(value: float | None, baseline: float | None) -> float | None:
    """Relative change from a baseline (0.1 is 10 % more); None where it means nothing."""
    if value is None or baseline is None or baseline == 0 or not (math.isfinite(value) and math.isfinite(baseline)):
        return None
    return (value - baseline) / abs(baseline)


def _table_with(reader: MetricsReader, name: str) -> MetricTable | None:
    return next((table for table in (reader.training, reader.evaluation) if name in table.columns), None)


def _newest(table: MetricTable, name: str, step: int | None = None) -> tuple[int, float] | None:
    """Step and value of a metric's newest point, at or before `step`; looks at the end alone, however long the run."""
    column = table.columns[name]
    index = len(column) if step is None else bisect_right(table.steps, step)
    while index:
        index -= 1
        if not math.isnan(column[index]):
            return table.steps[index], column[index]
    return None


def _facts(run: Run) -> dict[str, Any]:
    """The run's resolved recipe, and its lineage below `lineage`, as dotted keys."""
    try:
        plan = run.plan
    except NexaError:
        return {}
    recipe, lineage = plan.get("recipe"), plan.get("lineage")
    return {
        **(flat(recipe) if isinstance(recipe, Mapping) else {}),
        **(flat(lineage, "lineage") if isinstance(lineage, Mapping) else {}),
    }


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] and type(value) is type(values[0]) for value in values)
