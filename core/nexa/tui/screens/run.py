"""Run: one run's progress, curves, log, meters, recipe, checkpoints and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import ContentSwitcher, Static, Tab, Tabs

from nexa.errors import NexaError, RunError
from nexa.text import sanitize
from nexa.tui.charts.chart import Chart
from nexa.tui.charts.pane import ChartsPane
from nexa.tui.charts.view import ChartView
from nexa.tui.data.run import RunReader, RunSnapshot
from nexa.tui.keys import bindings
from nexa.tui.run_actions import RunActions
from nexa.tui.run_tabs.artifacts import ArtifactsTab, Checkpoint, read_checkpoints
from nexa.tui.run_tabs.config import ConfigTab, ConfigText, read_config
from nexa.tui.run_tabs.events import events_table
from nexa.tui.run_tabs.head import RunHead
from nexa.tui.run_tabs.overview import OverviewTab
from nexa.tui.run_tabs.system import SystemTab
from nexa.tui.widgets.log_pane import LogPane
from nexa.tui.widgets.table import RowTable

TABS = ("overview", "charts", "log", "system", "config", "artifacts", "events")

_FOCUS = {
    "overview": "#main-chart",
    "charts": "#curves",
    "log": "#log-view",
    "system": "SystemTab ChartsPane",
    "config": "ConfigTab",
    "artifacts": "#checkpoints",
    "events": "#events",
}
"""What the keys go to in each tab."""


@dataclass(frozen=True)
class _Found:
    """What one read brought; parts of tabs that are not shown are None."""

    snapshot: RunSnapshot
    config: ConfigText | None = None
    checkpoints: tuple[list[Checkpoint], str] | None = None


class RunScreen(RunActions):
    """The run that the app names, or the newest."""

    ENTRY = "run"
    READ_SECONDS = 0.5
    BINDINGS = bindings("run", "tabs")

    def __init__(self) -> None:
        super().__init__()
        self._reader: RunReader | None = None
        self._wanted: str | None = None
        self._weight = ChartView().weight
        self._tab = TABS[0]
        self._shown_id = ""
        self._config_of = ""

    def body(self) -> ComposeResult:
        """Head, tabs, and what to say without a run."""
        yield Static("", id="no-run")
        yield RunHead("")
        yield Tabs(*(Tab(name.capitalize(), id=f"tab-{name}") for name in TABS), id="tabs")
        with ContentSwitcher(initial=TABS[0], id="panes"):
            yield OverviewTab(id="overview")
            with Vertical(id="charts"):
                yield ChartsPane(id="curves")
                yield Static("", id="charts-status")
            yield LogPane(id="log")
            yield SystemTab(id="system")
            yield ConfigTab(id="config")
            yield ArtifactsTab(id="artifacts")
            yield events_table(id="events")

    def on_mount(self) -> None:
        """Nothing is shown before the first read."""
        self.query_one("#tabs", Tabs).can_focus = False
        self._set_present(False, "reading …")

    def on_screen_resume(self) -> None:
        """Show the run that the app names now."""
        self.open(self.nexa.run_id)
        super().on_screen_resume()

    def open(self, run_id: str | None) -> None:
        """Show a run, None for the newest."""
        self._wanted = run_id
        self.read_now()

    @property
    def _pane(self) -> ChartsPane:
        return self.query_one("#curves", ChartsPane)

    def read(self) -> _Found | None:
        """Read the run and what the shown tab needs; None when there is no run at all."""
        reader = self._current_reader()
        if reader is None:
            return None
        snapshot = reader.poll(self._weight)
        config = checkpoints = None
        if self._tab == "log":
            self.query_one(LogPane).scan()
        elif self._tab == "config" and self._config_of != reader.run.run_id:
            config = read_config(reader.run)
        elif self._tab == "artifacts":
            checkpoints = read_checkpoints(reader.run)
        return _Found(snapshot, config, checkpoints)

    def _current_reader(self) -> RunReader | None:
        store, wanted = self.services.store, self._wanted
        if wanted is None:
            runs = store.list()
            if not runs:
                return None
            wanted = runs[0].run_id
            self._wanted = wanted
        if self._reader is None or self._reader.run.run_id != wanted:
            run = store.open(wanted)
            self._reader = RunReader(run, clock=self.services.clock)
            self._weight = ChartView.from_document(self.services.preferences.charts.get(run.run_id, {})).weight
        return self._reader

    def show(self, found: _Found | None) -> None:
        """Show what was read."""
        if found is None:
            self._set_present(False, f"There are no runs in {self.services.runs_dir} yet. Press 1 to launch one.")
            return
        snapshot = found.snapshot
        self._set_present(True)
        if snapshot.run_id != self._shown_id:
            self._begin(snapshot.run_id)
        self.query_one(RunHead).show(snapshot)
        self._show_tab(found)
        if self.query_one(LogPane).catching_up and self._tab == "log":
            self.read_now()

    def _begin(self, run_id: str) -> None:
        """Another run than before: its own view of the charts, its own logs."""
        self._shown_id = run_id
        self.nexa.run_id = run_id
        view = ChartView.from_document(self.services.preferences.charts.get(run_id, {}))
        self._pane.view = view
        assert self._reader is not None
        self.query_one(LogPane).open(self._reader.run.path / "logs")
        self._focus_tab()

    def _show_tab(self, found: _Found) -> None:
        snapshot = found.snapshot
        if self._tab == "overview":
            self.query_one(OverviewTab).show(snapshot, self._pane.view)
        elif self._tab == "charts":
            if snapshot.curves is not self._pane.curves:
                self._pane.update(snapshot.curves)
            self._show_charts_status()
        elif self._tab == "log":
            self.query_one(LogPane).refresh_view()
        elif self._tab == "system":
            self.query_one(SystemTab).show(snapshot)
        elif self._tab == "config" and found.config is not None:
            self._config_of = snapshot.run_id
            self.query_one(ConfigTab).show(found.config)
        elif self._tab == "artifacts" and found.checkpoints is not None:
            self.query_one(ArtifactsTab).show(*found.checkpoints)
        elif self._tab == "events":
            self.query_one("#events", RowTable).set_rows(snapshot.events)

    def show_trouble(self, error: NexaError) -> None:
        """The run is gone or can't be read."""
        if isinstance(error, RunError):
            self._set_present(False, error.message)
        else:
            self.tell(error)

    def _set_present(self, present: bool, words: str = "") -> None:
        self.query_one("#no-run", Static).display = not present
        self.query_one(RunHead).display = present
        self.query_one("#tabs", Tabs).display = present
        self.query_one("#panes", ContentSwitcher).display = present
        if not present:
            self.query_one("#no-run", Static).update(Text(sanitize(words)))

    def _show_charts_status(self) -> None:
        status = self.query_one("#charts-status", Static)
        words = self._pane.status()
        if words != getattr(self, "_charts_words", None):
            self._charts_words = words
            status.update(Text(words, no_wrap=True, overflow="ellipsis"))

    @on(ChartsPane.Changed, "#curves")
    def _view_changed(self, event: ChartsPane.Changed) -> None:
        self.services.preferences.remember_charts(self._shown_id, self._pane.view.document())
        self._weight = self._pane.view.weight
        self._show_charts_status()
        if event.smoothing:
            self.read_now()

    @on(Tabs.TabActivated, "#tabs")
    def _tab_activated(self, event: Tabs.TabActivated) -> None:
        self._tab = str(event.tab.id).removeprefix("tab-")
        self.query_one("#panes", ContentSwitcher).current = self._tab
        self.call_after_refresh(self._focus_tab)
        self.read_now()

    def _focus_tab(self) -> None:
        self.set_focus(self.query_one(_FOCUS[self._tab]))

    def targets(self) -> Sequence[str]:
        """The run shown."""
        return [self._shown_id] if self._shown_id else []

    def action_tab(self, direction: int) -> None:
        """Show the next tab (1) or the previous (−1)."""
        self.open_tab(TABS[(TABS.index(self._tab) + direction) % len(TABS)])

    def open_tab(self, name: str) -> None:
        """Show a tab."""
        self.query_one("#tabs", Tabs).active = f"tab-{name}"

    def action_filter(self) -> None:
        """Search the log."""
        if self._tab != "log":
            self.open_tab("log")
        self.query_one(LogPane).start_search()

    async def action_back(self) -> None:
        """Leave the search, the crosshair, then the run."""
        if self._tab == "log" and self.query_one(LogPane).leave():
            return
        if self.maximized is not None:
            self.minimize()
            return
        await self.nexa.action_open_screen("runs")

    @on(Chart.Pointed, "#main-chart")
    def _main_chart_pointed(self) -> None:
        self.open_tab("charts")
