"""Curves made small enough to draw: two points a column that keep every extreme, and smoothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BLOCK = 64


def decimate(x: Floats, y: Floats, columns: int, low: float, high: float) -> list[tuple[Floats, Floats]]:
    """The part of a curve with low ≤ x ≤ high as pieces to join by lines, at most about two points a column.

    x ascends. Every column keeps its least and greatest y, so that no spike is lost; the line is
    interrupted where a column has no finite value, and where few points are drawn, at each one that is
    not finite.
    """
    first, last = np.searchsorted(x, (low, high), side="left")
    last = int(np.searchsorted(x, high, side="right"))
    x, y = x[first:last], y[first:last]
    if len(x) > 2 * columns and high > low:
        x, y = _extremes(x, y, columns, low, high)
    finite = np.isfinite(y)
    if finite.all():
        return [(x, y)] if len(x) else []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], finite, [False])).astype(np.int8)))
    return [(x[begin:end], y[begin:end]) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _extremes(x: Floats, y: Floats, columns: int, low: float, high: float) -> tuple[Floats, Floats]:
    """Least and greatest y of every column that has points, in the order in which the curve goes through them."""
    edges = np.searchsorted(x, np.linspace(low, high, columns + 1)[:-1], side="left")
    starts = np.unique(edges[edges < len(x)])
    least, greatest = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    ends = np.append(starts[1:], len(x)) - 1
    falling = y[starts] > y[ends]
    pairs_y = np.where(falling[:, None], np.stack((greatest, least), axis=1), np.stack((least, greatest), axis=1))
    pairs_x = np.stack((x[starts], x[ends]), axis=1)
    return pairs_x.ravel(), pairs_y.ravel()


class Smoother:
    """An exponential moving average that takes in a growing series, each value once.

    weight: of the past, 0 ≤ weight < 1. The average is divided by the sum of the weights it has seen,
    so that it is not drawn to zero at the start, and values that are not finite count for nothing
    (bias correction as in Adam, https://arxiv.org/abs/1412.6980).
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._sums = (0.0, 0.0)
        self._values: Floats = np.empty(0)
        self._last = np.nan

    def update(self, values: Floats) -> Floats:
        """The average of the whole series, NaN where the series is not finite."""
        known = len(self._values)
        if known > len(values) or (known and not _same(values[known - 1], self._last)):
            known, self._sums, self._values = 0, (0.0, 0.0), np.empty(0)
        new = values[known:]
        if len(new):
            finite = np.isfinite(new)
            share = 1.0 - self.weight
            total = _recur(np.where(finite, new, 0.0) * share, self.weight, self._sums[0])
            weights = _recur(finite * share, self.weight, self._sums[1])
            self._sums = (float(total[-1]), float(weights[-1]))
            self._last = float(new[-1])
            with np.errstate(invalid="ignore", divide="ignore"):
                smooth = np.where(finite, total / weights, np.nan)
            self._values = np.concatenate((self._values, smooth))
        return self._values


def _same(one: float, other: float) -> bool:
    return bool(one == other or (np.isnan(one) and np.isnan(other)))


def _recur(values: Floats, weight: float, start: float) -> Floats:
    """z[k] = weight·z[k−1] + values[k] with z[−1] = start; whole blocks at a time."""
    if weight == 0.0:
        return values.astype(np.float64)
    count = len(values)
    rows = -(-count // _BLOCK)
    padded = np.zeros(rows * _BLOCK)
    padded[:count] = values
    powers = weight ** np.arange(_BLOCK + 1)
    lag = np.arange(_BLOCK)[:, None] - np.arange(_BLOCK)[None, :]
    within = padded.reshape(rows, _BLOCK) @ np.where(lag >= 0, powers[np.abs(lag)], 0.0).T
    carried = np.empty(rows)
    carry = start
    for row in range(rows):
        carried[row] = carry
        carry = within[row, -1] + powers[_BLOCK] * carry
    result: Floats = (within + carried[:, None] * powers[None, 1:]).reshape(-1)[:count]
    return result
