"""How a run's charts are looked at: the part of X shown, smoothing, scales; kept for every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Any

from nexa import units
from nexa.tui.charts.curves import AXES

WEIGHTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
"""Weights of the past that smoothing goes through."""

_ZOOM = 0.6
_PAN = 0.25


@dataclass
class ChartView:
    """axis: what X is. low, high: the part of X shown, None for all. smoothing: index in WEIGHTS.
    log_y: logarithmic Y. inspected: X of the crosshair, None without one.
    """

    axis: str = "step"
    low: float | None = None
    high: float | None = None
    smoothing: int = 3
    log_y: bool = False
    inspected: float | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ChartView:
        """The view remembered as JSON values; whatever is damaged falls back to its default."""
        view = cls()
        if document.get("axis") in AXES:
            view.axis = document["axis"]
        low, high = document.get("low"), document.get("high")
        if (
            isinstance(low, int | float)
            and isinstance(high, int | float)
            and isfinite(low)
            and low < high < float("inf")
        ):
            view.low, view.high = float(low), float(high)
        smoothing = document.get("smoothing")
        if isinstance(smoothing, int) and 0 <= smoothing < len(WEIGHTS):
            view.smoothing = smoothing
        view.log_y = document.get("log_y") is True
        return view

    def document(self) -> dict[str, Any]:
        """What is remembered, as JSON values; the crosshair is not."""
        return {
            "axis": self.axis,
            "low": self.low,
            "high": self.high,
            "smoothing": self.smoothing,
            "log_y": self.log_y,
        }

    @property
    def weight(self) -> float:
        """The weight of the past in the moving average."""
        return WEIGHTS[self.smoothing]

    def limits(self, extent: tuple[float, float]) -> tuple[float, float]:
        """The part of X to draw, of curves that reach over `extent`."""
        return (self.low, self.high) if self.low is not None and self.high is not None else extent

    def zoom(self, direction: int, extent: tuple[float, float], *, around: float | None = None) -> None:
        """Show less (direction −1) or more (+1) of X, keeping `around` in its place: the crosshair, the middle."""
        low, high = self.limits(extent)
        centre = around if around is not None else self.inspected
        if centre is None or not low <= centre <= high:
            centre = (low + high) / 2
        factor = _ZOOM if direction < 0 else 1 / _ZOOM
        self._set(centre - (centre - low) * factor, centre + (high - centre) * factor, extent)

    def pan(self, direction: int, extent: tuple[float, float]) -> None:
        """Move along X by a quarter of what is shown."""
        low, high = self.limits(extent)
        shift = direction * _PAN * (high - low)
        shift = max(extent[0] - low, min(extent[1] - high, shift))
        self._set(low + shift, high + shift, extent)

    def _set(self, low: float, high: float, extent: tuple[float, float]) -> None:
        if low <= extent[0] and high >= extent[1]:
            self.low = self.high = None
            return
        low, high = max(low, extent[0]), min(high, extent[1])
        # A part too small to hold two numbers apart can't be drawn.
        if high - low > 1e-9 * max(1.0, abs(high)):
            self.low, self.high = low, high

    def reset(self) -> None:
        """Show all of X."""
        self.low = self.high = None

    def next_axis(self) -> None:
        """The next axis; parts of the old one mean nothing on it."""
        self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
        self.low = self.high = self.inspected = None

    def smooth(self, direction: int) -> None:
        """More (+1) or less (−1) smoothing."""
        self.smoothing = max(0, min(len(WEIGHTS) - 1, self.smoothing + direction))


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers in [low, high], at equal distances of 1, 2 or 5 times a power of ten."""
    if not (isfinite(low) and isfinite(high)) or high <= low or most < 1:
        return []
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    distance = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    first, last = ceil(low / distance - 1e-9), floor(high / distance + 1e-9)
    return [index * distance for index in range(first, min(last, first + most) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten in [10^low, 10^high] as exponents; 1, 2 and 5 times such where there are few."""
    whole = [float(exponent) for exponent in range(ceil(low - 1e-9), floor(high + 1e-9) + 1)]
    if len(whole) > most:
        stride = ceil(len(whole) / most)
        return whole[::stride]
    if len(whole) >= 2:
        return whole
    between = [exponent + log10(step) for exponent in range(floor(low), ceil(high) + 1) for step in (1, 2, 5)]
    return [tick for tick in between if low - 1e-9 <= tick <= high + 1e-9][:most]


def y_label(value: float) -> str:
    """A tick of Y in at most six cells."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"


def x_label(axis: str, value: float) -> str:
    """A tick of X: a duration on the time axis, else a number."""
    if axis == "time":
        return units.duration(value)
    return y_label(value) if abs(value) >= 1e6 else f"{value:.6g}"
