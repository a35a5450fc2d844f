"""The Cluster and Plugins screens over schedulers that answer, fail and hang."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from nexa.cluster_text import job_line, partition_line, share
from nexa.errors import NexaError
from nexa.plugins import PluginEntry
from nexa.scheduler import ClusterView, JobState, NodeResources, Partition, QueuedJob

VIEW = ClusterView(
    taken_at=1000.0,
    partitions=[Partition(name="gpu", is_default=True, max_seconds=172800, nodes=8, idle_nodes=3)],
    nodes=[
        NodeResources(name="n01", partitions=["gpu"], state="mixed", cpus=64, free_cpus=8, gpus=8, free_gpus=2),
        NodeResources(name="n02", partitions=["gpu"], state="down", reason="disk \x1b[31mfailed", gpus=8),
    ],
    jobs=[
        QueuedJob(
            job_id="41", name="a", state=JobState.PENDING, reason="waits for 8 free GPUs", submitted_at=940.0,
            expected_start=1600.0,
        ),
        QueuedJob(job_id="40", name="b", state=JobState.RUNNING, nodes=["n01"], started_at=400.0, limit_seconds=3600),
    ],
)  # fmt: skip


class Schedulers:
    """A host of schedulers whose clusters are what `answers` says: a view, an error, or an event to wait for."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.hung = threading.Event()

    def specs(self, kind: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.answers]

    def report(self) -> list[PluginEntry]:
        return []

    def create(self, kind: str, name: str) -> SimpleNamespace:
        return SimpleNamespace(cluster=lambda: self._answer(name))

    def _answer(self, name: str) -> object:
        answer = self.answers[name]
        if isinstance(answer, threading.Event):
            self.hung.set()
            assert answer.wait(60)
            return VIEW
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_partitions_nodes_and_jobs_with_their_reasons(project, opened, until, screen_text):
    """In plain English, with the age of the data; hostile text is inert."""

    async def check() -> None:
        host = Schedulers(local=VIEW, other=NexaError("slurm: can't connect", hint="ask your site"))
        async with opened(screen="5", size=(170, 40), host=lambda: host, clock=lambda: 1012.0) as pilot:
            await until(pilot, lambda: "waits for 8 free GPUs" in screen_text(pilot.app))
            text = screen_text(pilot.app)
            for part in ("gpu *", "3/8", "2d 00h", "n01", "2/8", "disk ␛[31mfailed", "as of 12s ago"):
                assert part in text, part
            assert "since 1m" in text
            assert "starts in about 9m 48s" in text
            assert "n01 for 10m of 1h 00m" in text
            await pilot.press("p")
            await until(pilot, lambda: "slurm: can't connect" in screen_text(pilot.app))
            assert "waits for 8" not in screen_text(pilot.app)

    asyncio.run(check())


def test_a_hung_scheduler_leaves_the_last_answer_with_its_age(project, opened, until, screen_text):
    """Keys go on working, and a plugin's mistake is shown, not raised."""
    clock = [1000.0]
    release = threading.Event()
    host = Schedulers(local=VIEW, broken=ValueError("a defect"))

    async def check() -> None:
        async with opened(screen="5", size=(170, 40), host=lambda: host, clock=lambda: clock[0]) as pilot:
            await until(pilot, lambda: "as of 0s ago" in screen_text(pilot.app))
            host.answers["local"] = release
            pilot.app.screen.read_now()
            await until(pilot, host.hung.is_set)
            clock[0] += 90
            await until(pilot, lambda: "it has not answered for 1m" in screen_text(pilot.app))
            assert "as of 1m ago" in screen_text(pilot.app)
            assert "waits for 8 free GPUs" in screen_text(pilot.app)
            await pilot.press("6")
            assert pilot.app.current_mode == "plugins"
            await pilot.press("5")
            release.set()
            await until(pilot, lambda: "not answered" not in screen_text(pilot.app))
            host.answers["local"] = ClusterView(taken_at=clock[0], problem="slurmctld is down")
            pilot.app.screen.read_now()
            await until(pilot, lambda: "slurmctld is down" in screen_text(pilot.app))
            assert "waits for 8 free GPUs" in screen_text(pilot.app)
            await pilot.press("p")
            await until(pilot, lambda: "ValueError: a defect" in screen_text(pilot.app))

    asyncio.run(check())


def test_this_machine_is_a_cluster_too(project, opened, until, screen_text):
    """The real local scheduler, at 80×24."""

    async def check() -> None:
        async with opened(screen="5", size=(80, 24)) as pilot:
            await until(pilot, lambda: "idle" in screen_text(pilot.app) and "local" in screen_text(pilot.app))
            assert "no jobs of yours" in screen_text(pilot.app)

    asyncio.run(check())


def test_lines_in_words():
    assert partition_line(VIEW.partitions[0]) == "gpu: up, 3 of 8 nodes idle, up to 2d 00h, default"
    assert share(None, 8) == "?/8"
    assert share(3, None) == "–"
    assert job_line(VIEW.jobs[0], 2000.0) == "waits for 8 free GPUs since 17m"


@pytest.mark.parametrize("size", [(80, 24), (150, 40)])
def test_plugins_with_their_troubles(project, opened, until, screen_text, size):
    """Broken ones first, their traceback below the table."""
    entries = [
        PluginEntry(name="good", kind="backend", entry_point="good", distribution="d", version="1", status="ok"),
        PluginEntry(
            name="bad", kind="", entry_point="bad", distribution="nexa-bad", version="2", status="error",
            message="no module \x1b[1m'x'", traceback="Traceback:\n  boom",
        ),
    ]  # fmt: skip
    host = SimpleNamespace(report=lambda: entries, specs=lambda kind: [])

    async def check() -> None:
        async with opened(screen="6", size=size, host=lambda: host) as pilot:
            await until(pilot, lambda: "boom" in screen_text(pilot.app))
            text = screen_text(pilot.app)
            assert text.index("bad") < text.index("good")
            assert "✗ error" in text
            assert "nexa-bad 2, entry point 'bad'" in text
            assert "\x1b" not in text
            await pilot.press("down")
            await until(pilot, lambda: "boom" not in screen_text(pilot.app))

    asyncio.run(check())


def test_the_installed_plugins_are_listed(project, opened, until, screen_text):
    """A third party's as Nexa's own."""

    async def check() -> None:
        async with opened(screen="6") as pilot:
            await until(
                pilot, lambda: "nexa-echo" in screen_text(pilot.app) and "tensorboard" in screen_text(pilot.app)
            )

    asyncio.run(check())
