"""The curves of a run: its metrics as arrays over steps, time and tokens, read as its events grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nexa.events.metrics import MetricsReader, MetricTable
from nexa.text import sanitize_line
from nexa.tui.charts.decimate import Floats, Smoother

AXES = ("step", "time", "tokens")
"""What X can be: optimizer steps, seconds since the first point, trained tokens."""

_EVAL_PREFIX = "eval_"
_FIRST = ("loss", "perplexity", "accuracy", "lr", "grad_norm", "tokens_per_second", "step_seconds", "memory_bytes")
# It is an axis.
_NOT_CHARTED = frozenset({"tokens"})
# A schedule has no noise that an average could take away, only corners that it would round.
_NOT_SMOOTHED = frozenset({"lr"})


@dataclass(frozen=True, eq=False)
class Curve:
    """One series; x by axis, all arrays of equal length, x ascending.

    values: NaN where the run recorded null. smooth: the moving average, None for series that are not
    smoothed.
    """

    name: str
    x: Mapping[str, Floats]
    values: Floats
    smooth: Floats | None = None

    @property
    def last(self) -> float:
        """The newest value, NaN when there is none."""
        return float(self.values[-1]) if len(self.values) else np.nan

    def nearest(self, axis: str, x: float) -> int | None:
        """Index of the point nearest to `x`, None when there is none."""
        xs = self.x[axis]
        if not len(xs):
            return None
        index = int(np.searchsorted(xs, x))
        if index == len(xs) or (index and x - xs[index - 1] <= xs[index] - x):
            index -= 1
        return index


@dataclass(frozen=True, eq=False)
class ChartData:
    """What one chart shows: a training curve, an evaluation's, or both."""

    name: str
    training: Curve | None = None
    evaluation: Curve | None = None

    @property
    def curves(self) -> list[Curve]:
        """Those there are."""
        return [curve for curve in (self.training, self.evaluation) if curve is not None]


@dataclass(frozen=True, eq=False)
class Curves:
    """All charts of a run. resumes: x of each restart, by axis. malformed: event lines that could not be read."""

    charts: Sequence[ChartData] = ()
    resumes: Mapping[str, Floats] = field(default_factory=dict)
    malformed: int = 0

    def extent(self, axis: str) -> tuple[float, float]:
        """First and last x of all curves; (0, 1) when there are none."""
        ends = [curve.x[axis] for chart in self.charts for curve in chart.curves if len(curve.values)]
        if not ends:
            return 0.0, 1.0
        low, high = min(float(x[0]) for x in ends), max(float(x[-1]) for x in ends)
        return (low, high) if high > low else (low - 0.5, high + 0.5)


class CurveReader:
    """Reads the curves of one run; for one thread at a time."""

    def __init__(self, events_dir: Path) -> None:
        self._reader = MetricsReader(events_dir)
        self._smoothers: dict[str, Smoother] = {}
        self._curves = Curves()
        self._weight: float | None = None
        self._resumes = 0

    def poll(self, weight: float) -> Curves:
        """The curves as they are now, smoothed with this weight of the past (0: not smoothed).

        The same object as before when nothing is new.
        """
        changed = self._reader.poll()
        if changed or weight != self._weight:
            # A resume replaces points at the end, which an average already holds.
            if weight != self._weight or len(self._reader.resumes) != self._resumes:
                self._smoothers.clear()
                self._weight, self._resumes = weight, len(self._reader.resumes)
            self._curves = self._make(weight)
        return self._curves

    def recent(self, count: int) -> tuple[Sequence[float], Sequence[int]]:
        """Unix seconds and steps of the newest training points of the newest attempt, oldest first."""
        table = self._reader.training
        times, steps = list(table.ts[-count:]), list(table.steps[-count:])
        if self._reader.resumes:
            # Time between attempts is no time of training.
            begin = next((i for i, step in enumerate(steps) if step >= self._reader.resumes[-1]), len(steps))
            times, steps = times[begin:], steps[begin:]
        return times, steps

    def _make(self, weight: float) -> Curves:
        table, evaluations = self._reader.training, self._reader.evaluation
        clock = _Clock(table)
        names = [name for name in table.columns if name not in _NOT_CHARTED]
        training = {name: self._curve(table, name, clock, weight) for name in names}
        evaluation = {name: self._curve(evaluations, name, clock, 0.0) for name in evaluations.columns}
        charts = [
            ChartData(sanitize_line(name), training.get(name), evaluation.pop(_EVAL_PREFIX + name, None))
            for name in training
        ]
        charts += [ChartData(sanitize_line(name), None, curve) for name, curve in evaluation.items()]
        resumes = np.array(self._reader.resumes, dtype=np.float64)
        return Curves(
            charts=sorted(charts, key=lambda chart: (_rank(chart.name), chart.name)),
            resumes={axis: clock.at(axis, resumes) for axis in AXES},
            malformed=self._reader.malformed,
        )

    def _curve(self, table: MetricTable, name: str, clock: _Clock, weight: float) -> Curve:
        values = np.array(table.columns[name])
        steps, times = np.array(table.steps, dtype=np.float64), np.array(table.ts)
        recorded = ~np.isnan(values)
        recorded[np.array(table.nulls.get(name, ()), dtype=np.int64)] = True
        if not recorded.all():
            values, steps, times = values[recorded], steps[recorded], times[recorded]
        if np.any(np.diff(steps) < 0):
            order = np.argsort(steps, kind="stable")
            values, steps, times = values[order], steps[order], times[order]
        values[~np.isfinite(values)] = np.nan
        smooth = None
        if weight > 0.0 and name not in _NOT_SMOOTHED:
            smooth = self._smoothers.setdefault(name, Smoother(weight)).update(values)
        times = np.maximum.accumulate(times - clock.begin) if len(times) else times
        x = {"step": steps, "time": times, "tokens": clock.at("tokens", steps)}
        return Curve(sanitize_line(name), x, values, smooth)


class _Clock:
    """Translates optimizer steps into the other axes, by the points of training."""

    def __init__(self, table: MetricTable) -> None:
        order = np.argsort(np.array(table.steps, dtype=np.float64), kind="stable")
        self._steps = np.array(table.steps, dtype=np.float64)[order]
        times = np.array(table.ts)
        self.begin = float(times[0]) if len(times) else 0.0
        tokens = np.array(table.columns.get("tokens", ()), dtype=np.float64)
        self._known = {"time": times[order] - self.begin}
        if len(tokens) == len(order) and len(tokens):
            self._known["tokens"] = tokens[order]

    def at(self, axis: str, steps: Floats) -> Floats:
        """The axis at these steps, interpolated; the steps themselves where the axis is unknown."""
        known = self._known.get(axis)
        if known is None or not len(known):
            return steps
        usable = np.isfinite(known)
        if not usable.any():
            return steps
        found: Floats = np.interp(steps, self._steps[usable], np.maximum.accumulate(known[usable]))
        return found


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)
