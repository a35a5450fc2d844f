"""What came of a sweep: one row a run, and which is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nexa.runs.state import WHOLE_TAIL_BYTES, RunStatus, run_statuses
from nexa.sweeps.store import Sweep, SweepMember
from nexa.worker.retention import smaller_is_better


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A member and how its run is; status None where the run's folder was removed."""

    member: SweepMember
    status: RunStatus | None

    def metric(self, name: str) -> float | None:
        """The newest value of a metric, None where there is none or it is not a number."""
        value = self.status.metrics.get(name) if self.status else None
        return value if value is not None and math.isfinite(value) else None


def sweep_rows(sweep: Sweep) -> list[SweepRow]:
    """How every member is; each scheduler is asked once."""
    members = sweep.members
    runs = {member.run_id: run for member in members if (run := sweep.run(member)) is not None}
    statuses = dict(zip(runs, run_statuses(list(runs.values()), tail_bytes=WHOLE_TAIL_BYTES), strict=True))
    return [SweepRow(member=member, status=statuses.get(member.run_id)) for member in members]


def metric_names(rows: Sequence[SweepRow]) -> list[str]:
    """Every metric that some run has, in the order in which they are met."""
    return list(dict.fromkeys(name for row in rows if row.status for name in row.status.metrics))


def monitored(sweep: Sweep, rows: Sequence[SweepRow]) -> str | None:
    """The metric that tells the best run where none is named: the recipe's monitor, else the loss."""
    names = metric_names(rows)
    return next((name for name in (sweep.document.get("monitor"), "eval_loss", "loss") if name in names), None)


def best_row(rows: Sequence[SweepRow], metric: str, *, mode: str = "auto") -> SweepRow | None:
    """The row with the smallest or largest value of a metric, None where no run has it.

    mode: "min", "max", or "auto", which tells from the metric's name.
    """
    measured = [(value, row) for row in rows if (value := row.metric(metric)) is not None]
    if not measured:
        return None
    choose = min if smaller_is_better(metric, mode) else max
    return choose(measured, key=lambda pair: pair[0])[1]


def progress_in_words(rows: Sequence[SweepRow]) -> str:
    """How many runs are in each state, such as "3 completed, 1 running, 4 queued"."""
    states = [str(row.status.state) if row.status else "removed" for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
