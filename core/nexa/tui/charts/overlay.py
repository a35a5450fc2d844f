"""Charts of several runs in one: a line for each run, in its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nexa.tui.charts.chart import Line
from nexa.tui.charts.curves import AXES, ChartData, Curve, Curves
from nexa.tui.charts.pane import ChartsPane


@dataclass(frozen=True, eq=False)
class Overlay(ChartData):
    """One metric of several runs."""

    lines: Sequence[Line] = ()

    @property
    def curves(self) -> list[Curve]:
        """Those of all runs."""
        return [line.curve for line in self.lines]


def overlay(runs: Sequence[Curves], labels: Sequence[str], *, only: str | None = None) -> Curves:
    """The charts of all runs over each other; only the metric `only`, where one is named."""
    names = dict.fromkeys(chart.name for curves in runs for chart in curves.charts if only in (None, chart.name))
    charts = []
    for name in names:
        lines: list[Line] = []
        for index, (curves, label) in enumerate(zip(runs, labels, strict=True), 1):
            chart = next((chart for chart in curves.charts if chart.name == name), None)
            colour = f"chart-{index}"
            if chart is not None and chart.training is not None:
                lines.append(Line(chart.training, label, colour))
            if chart is not None and chart.evaluation is not None:
                only_evaluated = chart.training is None
                lines.append(Line(chart.evaluation, label if only_evaluated else f"{label} eval", colour, dots=True))
        charts.append(Overlay(name=name, lines=lines))
    return Curves(
        charts=charts,
        resumes={axis: np.empty(0) for axis in AXES},
        malformed=sum(curves.malformed for curves in runs),
    )


class OverlayPane(ChartsPane):
    """Charts of several runs, looked at together."""

    # Values behind each of several lines can't be told apart.
    SHOW_RAW = False

    DEFAULT_CSS = """
    OverlayPane { layout: grid; grid-gutter: 0 1; scrollbar-size-vertical: 1; }
    OverlayPane > .nothing { padding: 1 2; color: $text-muted; }
    """

    def lines_of(self, data: ChartData) -> list[Line]:
        """One line for each run."""
        return list(data.lines) if isinstance(data, Overlay) else super().lines_of(data)
