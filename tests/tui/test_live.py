"""The UI while a run is watched: what it sends when nothing happens, and that an hour of it leaves nothing behind."""

from __future__ import annotations

import gc

import psutil
import pytest
from textual._compositor import CompositorUpdate
from textual.app import App

from nexa.tui.app import NexaApp

TICK_SECONDS = 0.5
BYTES_A_TICK = 1000
"""2 kB a second, at two ticks a second."""

OBJECTS = 500
FILES = 4
"""A read may be under way, and a pool of threads still filling."""
BYTES = 24e6
"""What 6,000 steps of four metrics may take: raw, smoothed, on three axes, as lists and as arrays being made."""


@pytest.fixture
def sent(monkeypatch):
    """What a terminal would be sent, as lengths in bytes."""
    lengths = []
    display = App._display

    def count(self, screen, renderable):
        if isinstance(renderable, CompositorUpdate):
            lengths.append(len(renderable.render_segments(self.console).encode()))
        display(self, screen, renderable)

    monkeypatch.setattr(App, "_display", count)
    return lengths


async def _ticks(pilot, site, until, count, *, write=lambda: None, in_thread=1):
    """So many reads of the screen shown, with time going on, each drawn before the next.

    in_thread: every how many reads are made in a thread, as in use; the others at once, which is quicker.
    """
    screen = pilot.app.screen
    screen.on_screen_suspend()
    for index in range(count):
        site.now += TICK_SECONDS
        write()
        if index % in_thread:
            screen.show(screen.read())
            await pilot.pause(0)
        else:
            screen.read_now()
            await until(pilot, lambda: not screen._reading)
            await pilot.pause()


@pytest.mark.parametrize("tab", ["", "overview", "charts", "log", "system", "events"])
def test_nothing_new_is_next_to_nothing_sent(site, drive, until, text_of, sent, tab):
    """The clock goes on; the run writes nothing."""
    run = site.run()
    site.train(run.path, 1, 60)
    meters = {"type": "system", "cpu_percent": 250, "rss_bytes": 4e9, "machine_cpu_percent": 41}
    site.events(run.path, [{"type": "sample", "step": 60, "prompt": "Who?", "text": "Me"}, meters, meters])
    (run.path / "logs" / "1-0.log").write_text("a line\n" * 100)
    app = NexaApp(site.services(), run_id=run.run_id if tab else None)

    async def script(pilot):
        await until(pilot, lambda: "60/200" in text_of(app))
        if tab:
            app.screen.open_tab(tab)
            await until(pilot, lambda: app.screen._tab == tab and app.screen.focused is not None)
        await _ticks(pilot, site, until, 3)
        sent.clear()
        await _ticks(pilot, site, until, 10)
        assert sum(sent) <= 10 * BYTES_A_TICK, sent

    drive(app, script, size=(120, 40))


def test_another_run_without_logs_or_meters_shows_none_of_the_one_before(site, drive, until, text_of):
    """What tabs remember to draw less belongs to one run."""
    first, second = site.run("first"), site.run("second")
    meters = {"type": "system", "cpu_percent": 250, "rss_bytes": 4e9}
    for run, rss in ((first, 4e9), (second, 9e9)):
        site.train(run.path, 1, 10)
        site.events(run.path, [{**meters, "rss_bytes": rss}] * 3)
    (first.path / "logs" / "1-0.log").write_text("a line of the first\n")
    app = NexaApp(site.services(), run_id=first.run_id)

    async def script(pilot):
        await until(pilot, lambda: "10/200" in text_of(app))
        app.screen.open_tab("log")
        await until(pilot, lambda: "a line of the first" in text_of(app))
        app.screen.open_tab("system")
        await until(pilot, lambda: "4.0 GB" in text_of(app) and "9.0 GB" not in text_of(app))
        await app.open_run(second.run_id)
        await until(pilot, lambda: "9.0 GB" in text_of(app) and "4.0 GB" not in text_of(app))
        app.screen.open_tab("log")
        await until(pilot, lambda: "no log yet" in text_of(app))
        assert "a line of the first" not in text_of(app)

    drive(app, script, size=(120, 40))


class _Live:
    """A run that writes a step, its progress, a line of log and now and then its meters at each tick."""

    def __init__(self, site, run):
        self._site, self._run = site, run
        self._step = 0
        self._log = run.path / "logs" / "1-0.log"

    def write(self):
        self._step += 1
        site, step = self._site, self._step
        loss = {"loss": 3 / step, "lr": 0.001, "tokens": step * 1000, "tokens_per_second": 950.0}
        records = [
            {"ts": site.now, "type": "metrics", "step": step, "values": loss},
            {"ts": site.now, "type": "progress", "phase": "training", "step": step, "total_steps": 10_000},
        ]
        if step % 20 == 0:
            meters = {"cpu_percent": 250, "rss_bytes": 4e9, "machine_cpu_percent": 41}
            records.append({"ts": site.now, "type": "system", **meters})
        site.events(self._run.path, records)
        with self._log.open("a") as file:
            file.write(f"step {step}\n")


TABS_SEEN = ("overview", "charts", "log", "system", "events")


@pytest.mark.parametrize(
    ("begin", "ticks"),
    [(100, 200), pytest.param(1200, 6000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
    ids=["two minutes", "an hour"],
)
def test_watching_a_live_run_leaves_nothing_behind(site, drive, until, text_of, begin, ticks):
    """Objects, files, threads and memory after more ticks are those of before, but for the points of the curves."""
    run = site.run()
    live, process = _Live(site, run), psutil.Process()
    live.write()
    app = NexaApp(site.services(), run_id=run.run_id)

    async def watch(pilot, count):
        for index in range(len(TABS_SEEN)):
            name = TABS_SEEN[index]
            app.screen.open_tab(name)
            await until(pilot, lambda name=name: app.screen._tab == name and app.screen.focused is not None)
            await _ticks(pilot, site, until, count // len(TABS_SEEN), write=live.write, in_thread=10)
        gc.collect()
        return len(gc.get_objects()), process.num_fds(), process.num_threads(), process.memory_info().rss

    async def script(pilot):
        await until(pilot, lambda: "1/10000" in text_of(app))
        before = await watch(pilot, begin)
        after = await watch(pilot, ticks)
        print(f"objects, files, threads, bytes: {before} before and {after} after {ticks} ticks")
        assert after[0] - before[0] < OBJECTS + 0.02 * before[0]
        assert after[1] <= before[1] + FILES
        assert after[2] <= before[2] + FILES
        assert after[3] - before[3] < BYTES

    drive(app, script, size=(120, 40))
