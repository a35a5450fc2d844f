"""Moving between parts of a screen, and looking at charts with the mouse."""

from __future__ import annotations

from textual.events import MouseScrollDown, MouseScrollUp

from nexa.tui.app import NexaApp
from nexa.tui.charts.chart import Chart
from nexa.tui.charts.pane import ChartsPane


def test_a_part_gets_the_whole_screen_and_gives_it_back(site, drive, until, text_of):
    run = site.run()
    site.train(run.path, 1, 20)
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "20/200" in text_of(app))
        await pilot.press("t")
        pane = app.screen.query_one("#curves", ChartsPane)
        await until(pilot, lambda: app.screen.focused is pane)
        rows = pane.size.height
        await pilot.press("z")
        await until(pilot, lambda: app.screen.maximized is pane and pane.size.height > rows)
        await pilot.press("z")
        await until(pilot, lambda: app.screen.maximized is None and pane.size.height == rows)
        await pilot.press("z", "escape")
        assert app.screen.maximized is None
        assert app.current_mode == "run"

    drive(app, script)


def test_tab_goes_to_the_next_part(site, drive, until):
    app = NexaApp(site.services())

    async def script(pilot):
        await pilot.press("5")
        # A scheduler without partitions has no table of them.
        await until(pilot, lambda: app.screen._views and not app.screen._reading)
        await pilot.press("tab")
        first = app.screen.focused
        await pilot.press("tab")
        assert app.screen.focused not in (None, first)
        await pilot.press("shift+tab")
        assert app.screen.focused is first

    drive(app, script)


def test_charts_are_looked_at_with_the_mouse(site, drive, until, text_of):
    """A click puts the crosshair there, Ctrl and the wheel zoom around the pointer; the overview's chart opens them."""
    run = site.run()
    site.train(run.path, 1, 100)
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "100/200" in text_of(app))
        await pilot.click("#main-chart", offset=(30, 5))
        pane = app.screen.query_one("#curves", ChartsPane)
        await until(pilot, lambda: app.screen._tab == "charts" and len(pane.query(Chart)) > 0)
        chart = pane.query(Chart).first()
        await until(pilot, lambda: chart.size.width > 40)
        await pilot.click(chart, offset=(30, 3))
        await until(pilot, lambda: pane.view.inspected is not None)
        at = chart.x_at(30)
        for wheel, holds in ((MouseScrollUp, True), (MouseScrollDown, False)):
            await pilot._post_mouse_events([wheel], chart, offset=(30, 3), control=True)
            await until(pilot, lambda holds=holds: (pane.view.low is not None) is holds)
            if holds:
                low, high = pane.view.limits(pane.curves.extent("step"))
                assert low < at < high
        await pilot.press("plus", "full_stop")
        low = pane.view.low
        await pilot.press("comma")
        assert pane.view.low < low

    drive(app, script, size=(120, 40))


def test_plugins_are_looked_up_again(site, drive, until):
    from types import SimpleNamespace

    asked = []
    host = SimpleNamespace(report=lambda: asked.append(1) or [], specs=lambda kind: [])
    app = NexaApp(site.services(host=lambda: host))

    async def script(pilot):
        await pilot.press("6")
        await until(pilot, lambda: asked and not app.screen._reading)
        before = len(asked)
        await pilot.press("r")
        await until(pilot, lambda: len(asked) > before)

    drive(app, script)
