"""The Cluster screen: machines, partitions and jobs as a scheduler tells them, and how old that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from nexa import units
from nexa.cluster_text import job_line, share
from nexa.errors import NexaError
from nexa.scheduler import ClusterView, JobState, NodeResources, Partition, QueuedJob
from nexa.text import sanitize_line
from nexa.tui.cluster_text import ask_cluster
from nexa.tui.keys import bindings
from nexa.tui.screens.base import NexaScreen
from nexa.tui.widgets.table import Column, RowTable

if TYPE_CHECKING:
    from textual.binding import BindingType

# What a person waits before wondering whether the scheduler hangs.
_SLOW_SECONDS = 3.0

_PARTITIONS: list[Column[Partition]] = [
    Column(
        name="partition",
        width=0,
        text=lambda row: sanitize_line(row.name) + (" *" if row.is_default else ""),
        importance=9,
    ),
    Column(name="state", width=8, text=lambda row: sanitize_line(row.state), importance=5),
    Column(name="idle", width=9, text=lambda row: f"{row.idle_nodes}/{row.nodes}", right=True, importance=6),
    Column(name="longest", width=9, text=lambda row: units.duration(row.max_seconds) or "any", right=True),
]
_NODES: list[Column[NodeResources]] = [
    Column(name="node", width=16, text=lambda row: sanitize_line(row.name), importance=9),
    Column(
        name="state",
        width=11,
        text=lambda row: sanitize_line(row.state),
        colour=lambda row: "warning" if row.reason else "success" if row.state == "idle" else "",
        importance=8,
    ),
    Column(name="GPUs free", width=14, text=lambda row: _gpus(row), right=True, importance=7),
    Column(name="CPUs free", width=10, text=lambda row: share(row.free_cpus, row.cpus), right=True, importance=6),
    Column(
        name="memory free",
        width=19,
        text=lambda row: share(row.free_memory_bytes, row.memory_bytes, units.size),
        right=True,
        importance=4,
    ),
    Column(
        name="partitions, reason",
        width=0,
        text=lambda row: sanitize_line(", ".join(row.partitions) + (f"  {row.reason}" if row.reason else "")),
        importance=5,
    ),
]
_DATE = re.compile(r"^\d{8}-\d{6}-")
_JOB_COLOURS = {JobState.RUNNING: "success", JobState.PENDING: "warning", JobState.UNKNOWN: "warning"}


@dataclass(frozen=True, kw_only=True)
class _Found:
    names: Sequence[str] = ()
    scheduler: str = ""
    view: ClusterView = field(default_factory=lambda: ClusterView(taken_at=0.0))


class ClusterScreen(NexaScreen):
    """One scheduler's cluster, asked every few seconds in a thread; the last answer stays while it hangs."""

    ENTRY = "cluster"
    CSS_PATH = "cluster.tcss"
    BINDINGS: ClassVar[list[BindingType]] = bindings("cluster")
    READ_SECONDS = 5.0

    def __init__(self) -> None:
        super().__init__()
        self._names: Sequence[str] = ()
        self._scheduler = ""
        self._views: dict[str, ClusterView] = {}
        self._problems: dict[str, str] = {}
        self._asked_at: float | None = None

    def body(self) -> ComposeResult:
        """Where this is from, and three tables."""
        yield Static(id="cluster-head")
        with Horizontal(id="machines"):
            yield RowTable(_PARTITIONS, key=lambda row: row.name, empty="no partitions", id="partitions")
            yield RowTable(_NODES, key=lambda row: row.name, empty="no machines", id="nodes")
        yield RowTable(_jobs(self), key=lambda row: row.job_id, empty="no jobs of yours", id="jobs")
        yield Static(id="job")

    def on_mount(self) -> None:
        """Keep the age of the data true between answers."""
        self._scheduler = self.services.settings.scheduler
        self.set_interval(1.0, self._show_head)

    def read_now(self) -> None:
        """Ask, and remember since when the question is open."""
        if self._asked_at is None:
            self._asked_at = self.services.clock()
        super().read_now()

    def read(self) -> _Found:
        """The chosen scheduler's cluster, and the schedulers there are."""
        names = [spec.name for spec in self.services.host().specs("scheduler")]
        scheduler = self._scheduler if self._scheduler in names or not names else names[0]
        return _Found(names=names, scheduler=scheduler, view=ask_cluster(self.services, scheduler))

    def show(self, found: _Found) -> None:
        """Show an answer; where there is none, what was known before with the reason."""
        self._asked_at = None
        self._names = found.names
        if self._scheduler not in found.names:
            self._scheduler = found.scheduler
        self._problems[found.scheduler] = found.view.problem
        empty = not (found.view.nodes or found.view.partitions or found.view.jobs)
        if not (found.view.problem and empty and found.scheduler in self._views):
            self._views[found.scheduler] = found.view
        if found.scheduler == self._scheduler:
            self._fill()

    def show_trouble(self, error: NexaError) -> None:
        """Say that the schedulers can't be listed."""
        self._asked_at = None
        self._problems[self._scheduler] = error.message
        self._show_head()

    def _fill(self) -> None:
        view = self._views.get(self._scheduler, ClusterView(taken_at=0.0))
        known = self._scheduler in self._views and not (self._problems.get(self._scheduler) and not view.nodes)
        for name, text in (("partitions", "no partitions"), ("nodes", "no machines"), ("jobs", "no jobs of yours")):
            self.query_one(f"#{name}", RowTable).set_empty(text if known else "not known")
        self.query_one("#partitions", RowTable).set_rows(view.partitions)
        self.query_one("#nodes", RowTable).set_rows(view.nodes)
        self.query_one("#jobs", RowTable).set_rows(view.jobs)
        self._show_job(self.query_one("#jobs", RowTable).current)
        self.set_class(not view.partitions, "-flat")
        self._show_head()

    def _show_head(self) -> None:
        now = self.services.clock()
        view = self._views.get(self._scheduler)
        problem = self._problems.get(self._scheduler, "")
        parts: list[tuple[str, str]] = []
        for name in self._names or [self._scheduler]:
            parts.append(
                (f" {sanitize_line(name)} ", "bold reverse" if name == self._scheduler else "$foreground-muted")
            )
        if view is not None and not (problem and not view.nodes):
            parts.append((f"  as of {units.age(view.taken_at, now=now)} ago", "$foreground-muted"))
        if self._asked_at is not None and now - self._asked_at >= _SLOW_SECONDS:
            parts.append((f"  it has not answered for {units.age(self._asked_at, now=now)}", "$warning"))
        if problem:
            parts.append((f"\n ✗ {sanitize_line(problem)}", "$error"))
        self.query_one("#cluster-head", Static).update(Content.assemble(*parts))

    def action_next_scheduler(self) -> None:
        """Show the next scheduler's cluster."""
        if self._names:
            place = self._names.index(self._scheduler) if self._scheduler in self._names else -1
            self._scheduler = self._names[(place + 1) % len(self._names)]
            self._fill()
            self.read_now()

    @on(RowTable.Moved, "#jobs")
    def _job_under_cursor(self, event: RowTable.Moved) -> None:
        self._show_job(event.row)

    def _show_job(self, job: QueuedJob | None) -> None:
        """The whole of what the table may cut."""
        text = "" if job is None else f"{job.job_id} {job.name}: {job_line(job, self.services.clock())}"
        self.query_one("#job", Static).update(Content(sanitize_line(text)))

    @on(RowTable.Opened, "#jobs")
    async def _job_opened(self, event: RowTable.Opened) -> None:
        if event.row.run_id is not None:
            await self.nexa.open_run(event.row.run_id)
        else:
            self.tell(f"job {event.row.job_id} is no run of nexa", severity="information")


def _jobs(screen: ClusterScreen) -> list[Column[QueuedJob]]:
    return [
        Column(name="job", width=10, text=lambda row: sanitize_line(row.job_id), importance=7),
        Column(name="name", width=20, text=_job_name, importance=9),
        Column(
            name="state",
            width=8,
            text=lambda row: str(row.state),
            colour=lambda row: _JOB_COLOURS.get(row.state, ""),
            importance=8,
        ),
        Column(name="partition", width=10, text=lambda row: sanitize_line(row.partition), importance=3),
        Column(
            name="where, or why it waits",
            width=0,
            text=lambda row: sanitize_line(job_line(row, screen.services.clock())),
            importance=9,
        ),
    ]


def _job_name(job: QueuedJob) -> str:
    """The run's id without its date, which its place in the queue tells as well; else the job's name."""
    return sanitize_line(_DATE.sub("", job.run_id) if job.run_id else job.name)


def _gpus(node: NodeResources) -> str:
    if not node.gpus:
        return "–"
    return f"{share(node.free_gpus, node.gpus)} {sanitize_line(node.gpu_type)}".strip()
