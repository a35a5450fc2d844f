"""The Compare screen: curves of several runs over each other, and in what the runs differ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from nexa.cli.diff import metric_texts, setting_text
from nexa.errors import NexaError, UserError
from nexa.runs.compare import Comparison, Difference, MetricDifference
from nexa.text import sanitize_line
from nexa.tui.charts.curves import CurveReader, Curves
from nexa.tui.charts.overlay import OverlayPane, overlay
from nexa.tui.charts.pane import ChartsPane
from nexa.tui.glyphs import LOOKS
from nexa.tui.keys import bindings
from nexa.tui.screens.base import NexaScreen
from nexa.tui.widgets.table import Column, RowTable

if TYPE_CHECKING:
    from textual.binding import BindingType

    from nexa.runs.state import RunStatus

_LETTERS = "ABCDEFGH"
_METRIC_CELLS, _SETTING_CELLS = 18, 10


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one read gives. trouble: why there is nothing to show."""

    run_ids: Sequence[str] = ()
    statuses: Sequence[RunStatus] = ()
    curves: Sequence[Curves] = ()
    settings: Sequence[Difference] = ()
    metrics: Sequence[MetricDifference] = ()
    trouble: str = ""


class CompareScreen(NexaScreen):
    """Overlaid charts, a legend with the runs' states, settings and metrics in which they differ."""

    ENTRY = "compare"
    CSS_PATH = "compare.tcss"
    BINDINGS: ClassVar[list[BindingType]] = bindings("compare")
    READ_SECONDS = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._comparison: Comparison | None = None
        self._readers: list[CurveReader] = []
        self._found = _Found()
        self._baseline = 0
        self._metric: str | None = None

    def body(self) -> ComposeResult:
        """Legend, charts, differences."""
        yield Static(id="legend")
        with Horizontal(id="compared"):
            yield OverlayPane(id="overlay", empty="no metrics yet")
            with Vertical(id="differences"):
                yield Vertical(id="metric-differences")
                yield Vertical(id="setting-differences")

    @property
    def pane(self) -> OverlayPane:
        """The charts."""
        return self.query_one(OverlayPane)

    # Reading

    def read(self) -> _Found:
        """The chosen runs, by default the two newest."""
        from nexa.runs.state import run_statuses

        try:
            comparison = self._chosen()
        except NexaError as error:
            return _Found(trouble=f"{error.message}\n{error.hint or ''}".strip())
        changed = comparison.poll()
        weight = self.pane.view.weight
        curves = [reader.poll(weight) for reader in self._readers]
        before = self._found if not changed and self._found.run_ids else None
        return _Found(
            run_ids=[run.run_id for run in comparison.runs],
            statuses=run_statuses(comparison.runs),
            curves=curves,
            settings=before.settings if before is not None else comparison.settings(),
            metrics=before.metrics if before is not None else comparison.metric_differences(),
        )

    def _chosen(self) -> Comparison:
        wanted = self.nexa.compared
        known = self._comparison
        if known is not None and [run.run_id for run in known.runs] == wanted:
            return known
        store = self.services.store
        if not wanted:
            newest = store.list()[:2]
            if len(newest) < 2:
                raise UserError("there are no two runs to compare yet", hint="start some on screen 1")
            wanted = [run.run_id for run in newest]
        comparison = Comparison([store.open(run_id) for run_id in wanted])
        self.nexa.compared = wanted
        self._comparison, self._found = comparison, _Found()
        self._readers = [CurveReader(run.path / "events") for run in comparison.runs]
        return comparison

    def show(self, found: _Found) -> None:
        """Draw what was read."""
        if found.trouble:
            self.query_one("#legend", Static).update(Content.styled(found.trouble, "$warning"))
            self._found = _Found()
            self.pane.update(Curves())
            return
        other = list(found.run_ids) != list(self._found.run_ids)
        if other:
            self._baseline = 0
        redraw = other or found.metrics != self._found.metrics or found.settings != self._found.settings
        self._found = found
        self._show_legend()
        self._show_curves()
        if redraw:
            self.call_later(self._show_differences)

    def _show_legend(self) -> None:
        parts: list[tuple[str, str]] = []
        for index, (run_id, status) in enumerate(zip(self._found.run_ids, self._found.statuses, strict=True)):
            look = LOOKS[status.state]
            parts.append((f"{'' if not index else chr(10)} {_LETTERS[index]} ━━ ", f"$chart-{index + 1} bold"))
            parts.append((f"{sanitize_line(run_id)}  ", ""))
            parts.append((f"{look.glyph} {status.state}", f"${look.colour}"))
            parts.append(("  baseline" if index == self._baseline else "", "$accent bold"))
        self.query_one("#legend", Static).update(Content.assemble(*parts))

    def _show_curves(self) -> None:
        labels = list(_LETTERS[: len(self._found.curves)])
        self.pane.update(overlay(self._found.curves, labels, only=self._metric))

    async def _show_differences(self) -> None:
        found, letters = self._found, _LETTERS[: len(self._found.run_ids)]
        metrics: RowTable[MetricDifference] = RowTable(
            [
                Column[MetricDifference](
                    name="metric", width=0, text=lambda row: sanitize_line(row.name), importance=9
                ),
                Column[MetricDifference](name="step", width=7, text=lambda row: str(row.step or ""), right=True),
                *(_metric_column(index, letter, self._baseline) for index, letter in enumerate(letters)),
            ],
            key=lambda row: row.name,
            empty="no metric differs",
            id="metrics-table",
        )
        settings: RowTable[Difference] = RowTable(
            [
                Column[Difference](name="setting", width=0, text=lambda row: sanitize_line(row.path), importance=9),
                *(_setting_column(index, letter) for index, letter in enumerate(letters)),
            ],
            key=lambda row: row.path,
            empty="the settings are the same",
            id="settings-table",
        )
        for place, table in (("#metric-differences", metrics), ("#setting-differences", settings)):
            box = self.query_one(place)
            await box.remove_children()
            await box.mount(table)
        metrics.set_rows(found.metrics)
        settings.set_rows(found.settings)

    # Actions

    def action_baseline(self) -> None:
        """Hold the runs against the next one."""
        if self._found.run_ids:
            self._baseline = (self._baseline + 1) % len(self._found.run_ids)
            self._show_legend()
            self.call_later(self._show_differences)

    def action_metric(self) -> None:
        """Show the next metric alone, after the last one all of them."""
        names = list(dict.fromkeys(chart.name for curves in self._found.curves for chart in curves.charts))
        place = names.index(self._metric) if self._metric in names else -1
        self._metric = names[place + 1] if place + 1 < len(names) else None
        self._show_curves()

    @on(ChartsPane.Changed)
    def _view_changed(self, event: ChartsPane.Changed) -> None:
        if event.smoothing:
            self.read_now()

    def action_export(self) -> None:
        """Write the curves into a CSV file of the current folder."""
        try:
            self.services.require_writable("write a file")
        except NexaError as error:
            self.tell(error)
            return
        if self._comparison is not None:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.services.clock()))
            self._export(self._comparison.runs, Path.cwd() / f"compare-{stamp}.csv")

    @work(thread=True, group="export")
    def _export(self, runs: Any, file: Path) -> None:
        # Readers are for one thread; the ones that draw belong to another.
        comparison = Comparison(runs)
        comparison.poll()
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(comparison.csv())
        except OSError as error:
            self.deliver(self.tell, f"{file} can't be written: {error.strerror or error}")
        else:
            self.deliver(lambda: self.tell(f"written: {file}", severity="information"))


def _metric_column(index: int, letter: str, baseline: int) -> Column[MetricDifference]:
    return Column(
        name=letter,
        width=_METRIC_CELLS,
        text=lambda row: list(metric_texts(row, baseline))[index],
        colour=lambda row: f"chart-{index + 1}",
        importance=8 - index,
        right=True,
    )


def _setting_column(index: int, letter: str) -> Column[Difference]:
    return Column(
        name=letter,
        width=_SETTING_CELLS,
        text=lambda row: sanitize_line(setting_text(row.values[index])),
        colour=lambda row: f"chart-{index + 1}",
        importance=8 - index,
    )
