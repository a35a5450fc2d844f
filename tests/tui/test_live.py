"""The UI while a run is watched: what it sends when nothing happens, and that an hour of it leaves nothing behind."""

from __future__ import annotations

import pytest
from textual._compositor import CompositorUpdate
from textual.app import App

from nexa.tui.app import NexaApp

TICK_SECONDS = 0.5
BYTES_A_TICK = 1000
"""2 kB a second, at two ticks a second."""


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


async def _ticks(pilot, site, until, count):
    """So many reads of the screen shown, with time going on, each drawn before the next."""
    screen = pilot.app.screen
    screen.on_screen_suspend()
    for _ in range(count):
        site.now += TICK_SECONDS
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
