"""The Run screen: progress and curves as they are written, crosshair, log keys, meters, recipe, checkpoints, events."""

from __future__ import annotations

import json

import pytest

from nexa.runs.actions import open_store
from nexa.runs.progress import time_left
from nexa.tui.app import NexaApp
from nexa.tui.charts.pane import ChartsPane
from nexa.tui.preferences import Preferences
from nexa.tui.screens.run import TABS
from nexa.tui.widgets.log_pane import LogPane
from nexa.tui.widgets.table import RowTable


def open_tab(app, name):
    app.screen.open_tab(name)


def pane(app):
    return app.screen.query_one("#curves", ChartsPane)


def test_the_first_tab_tells_how_it_goes(site, drive, until, text_of):
    run = site.run()
    site.train(run.path, 1, 60)
    samples = [("Who?", 0, "a model"), ("Who?", 60, "a captain [b]")]
    site.events(run.path, [{"type": "sample", "step": s, "prompt": p, "text": t} for p, s, t in samples])
    site.events(run.path, [{"type": "message", "level": "warning", "text": "disk is nearly full"}])
    site.events(run.path, [{"type": "eval", "step": step, "values": {"eval_loss": 2 - step / 60}} for step in (30, 60)])
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "1 step 60" in text_of(app))
        text = text_of(app)
        for words in ("● running", "30%", "2m 20s left", "950", "eval 1", "1 step 60", "Who?", "a captain [b]"):
            assert words in text, words
        assert "before" in text
        assert "disk is nearly full" in text
        assert "◆" in text

    drive(app, script, size=(140, 36))


def test_time_left_has_an_interval_that_holds_the_truth():
    # Steps of 1 s and 3 s in turn: mean 2 s, 100 left.
    times = [0.0]
    for step in range(1, 51):
        times.append(times[-1] + (1.0 if step % 2 else 3.0))
    left = time_left(times, list(range(51)), 150)
    assert left.expected == pytest.approx(200)
    assert left.low < 200 < left.high
    assert left.high - left.expected == pytest.approx(1.96 * (100 * 50 / 49 + 100**2 * (50 / 49) / 50) ** 0.5)
    even = time_left([0.0, 1.0, 2.0, 3.0], [0, 10, 20, 30], 40)
    assert (even.low, even.expected, even.high) == (1.0, 1.0, 1.0)
    assert time_left([0.0, 1.0], [0, 1], 10) is None
    assert time_left([0.0, 1.0, 2.0], [5, 5, 5], 10) is None


def test_what_another_process_writes_appears(site, drive, until, text_of):
    run = site.run()
    site.train(run.path, 1, 10)
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "10/200" in text_of(app))
        site.train(run.path, 11, 25)
        await until(pilot, lambda: "25/200" in text_of(app))
        site.now += 1000
        await until(pilot, lambda: "○ stale" in text_of(app))

    drive(app, script)


def test_charts_are_looked_at_by_keys_and_remembered(site, drive, until, text_of, tmp_path):
    run = site.run()
    site.train(run.path, 1, 100)
    site.attempt(run.path, 2)
    site.train(run.path, 81, 120, attempt=2)
    path = tmp_path / "tui.json"
    app = NexaApp(site.services(preferences=Preferences.load(path)), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "120/200" in text_of(app))
        await pilot.press("t")
        await until(pilot, lambda: "smoothing 0.9" in text_of(app) and app.screen.focused is pane(app))
        await until(pilot, lambda: "╎" in text_of(app))
        loss = pane(app).curves.charts[0].training
        assert pane(app).curves.resumes["step"].tolist() == [81.0]
        await pilot.press("plus", "comma", "right_square_bracket", "L")
        for words in ("zoomed", "log-Y", "smoothing 0.95"):
            await until(pilot, lambda words=words: words in text_of(app))
        await pilot.press("0", "i", "left")
        await until(pilot, lambda: "step 118" in text_of(app) or "step 119" in text_of(app))
        # The crosshair tells the value as it was recorded, not its average.
        index = loss.nearest("step", pane(app).view.inspected)
        await until(pilot, lambda: f"{loss.values[index]:.4g}" in text_of(app))
        await pilot.press("escape")
        assert pane(app).view.inspected is None
        await pilot.press("x")
        await until(pilot, lambda: "x: time" in text_of(app))

    drive(app, script, size=(120, 40))
    view = Preferences.load(path).charts[run.run_id]
    assert (view["smoothing"], view["log_y"], view["axis"]) == (4, True, "time")


def test_logs_are_searched_followed_and_filtered_by_keys(site, drive, until, text_of):
    run = site.run()
    rows = [json.dumps({"ts": 0, "level": "info", "event": f"step {n}", "logger": "x"}) for n in range(500)]
    rows[250] = "Traceback (most recent call last):"
    rows[251] = "OSError: \x1b[31mstale file handle"
    log = run.path / "logs" / "1-0.log"
    log.write_text("\n".join(rows) + "\n")
    (run.path / "logs" / "1-1.log").write_text("of rank one\n")
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: app.screen.query(LogPane) and "running" in text_of(app))
        open_tab(app, "log")
        view = app.screen.query_one(LogPane).view
        await until(pilot, lambda: "step 499" in text_of(app) and app.screen.focused is view)
        with log.open("a") as file:
            file.write("another line\n")
        await until(pilot, lambda: "another line" in text_of(app))
        await pilot.press("e")
        await until(pilot, lambda: "OSError: ␛[31mstale file handle" in text_of(app))
        assert not view.follow
        await pilot.press("slash", *"step 12\\d", "enter")
        await until(pilot, lambda: view.current == 120)
        await pilot.press("n")
        await until(pilot, lambda: view.current == 121)
        await pilot.press("N")
        await until(pilot, lambda: view.current == 120)
        await pilot.press("m")
        await until(pilot, lambda: "warnings: 2" in text_of(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: "step 499" in text_of(app))
        await pilot.press("g")
        await until(pilot, lambda: "step 0" in text_of(app))
        await pilot.press("G")
        await until(pilot, lambda: "another line" in text_of(app))
        await pilot.press("o")
        await until(pilot, lambda: "of rank one" in text_of(app))

    drive(app, script)


def test_long_lines_wrap_or_scroll(site, drive, until, text_of):
    run = site.run()
    (run.path / "logs" / "1-0.log").write_text("begin " + "x" * 300 + " end\n")
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "running" in text_of(app))
        open_tab(app, "log")
        await until(pilot, lambda: "begin" in text_of(app) and app.screen.focused is not None)
        assert " end" not in text_of(app)
        await pilot.press("w")
        await until(pilot, lambda: "x end" in text_of(app))
        await pilot.press("w")
        await pilot.press(*["right"] * 20)
        await until(pilot, lambda: "x end" in text_of(app) and "begin" not in text_of(app))

    drive(app, script, size=(80, 24))


def test_meters_of_every_rank_are_shown(site, drive, until, text_of):
    run = site.run()
    gpu = {
        "gpu": "0",
        "utilization_percent": 97,
        "memory_bytes": 7e10,
        "memory_total_bytes": 1.5e11,
        "power_watts": 512,
    }
    meters = {"type": "system", "cpu_percent": 250, "rss_bytes": 4e9, "machine_cpu_percent": 41, "gpus": [gpu]}
    site.events(run.path, [{**meters, "machine_memory_total_bytes": 1e11, "machine_memory_bytes": 2e10}] * 3)
    site.events(run.path, [{"type": "start", "rank": 1, "host": "node8"}, {**meters, "cpu_percent": None}], rank=1)
    site.events(run.path, [{"type": "system", "gpus": "none", "rss_bytes": [1]}], rank=1)
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "count" in text_of(app))
        open_tab(app, "system")
        for words in (
            "rank 1",
            "node7",
            "own 2.5 cores",
            "97 %",
            "70.0 GB of 150.0 GB",
            "512 W",
            "memory of the worker",
        ):
            await until(pilot, lambda words=words: words in text_of(app))

    drive(app, script, size=(120, 36))


def test_recipe_checkpoints_and_events_have_tabs(site, drive, until, text_of):
    run = site.run()
    store = open_store(run)
    staged = run.path / "checkpoints" / "s"
    staged.mkdir()
    (staged / "weights").write_text("w")
    name = f"checkpoints/{run.run_id}/step-00000010"
    store.commit(staged, name, kind="checkpoint", manifest={"metrics": {"loss": 1.25}, "lineage": {"code": "abc"}})
    site.events(run.path, [{"type": "checkpoint", "step": 10, "name": name, "bytes": 1, "hash": "x"}])
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "count" in text_of(app))
        open_tab(app, "config")
        await until(pilot, lambda: "lr: 0.001  # small" in text_of(app))
        open_tab(app, "artifacts")
        await until(pilot, lambda: "metrics.loss  1.25" in text_of(app))
        assert "step-00000010" in text_of(app)
        await pilot.press("v")
        await until(pilot, lambda: any("1 checkpoint verified" in note.message for note in app._notifications))
        (path,) = (site.root / "artifacts").rglob("weights")
        path.chmod(0o644)
        path.write_text("v")
        await pilot.press("v")
        await until(pilot, lambda: any("is damaged" in note.message for note in app._notifications))
        open_tab(app, "events")
        await until(pilot, lambda: "rank 0 of 1 on node7" in text_of(app))
        assert app.screen.query_one("#events", RowTable).rows[0].type == "checkpoint"

    drive(app, script, size=(120, 30))


def test_tabs_go_round_by_keys(site, drive, until, text_of):
    run = site.run()
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "running" in text_of(app))
        for name in (*TABS[1:], TABS[0]):
            await pilot.press("t")
            await until(pilot, lambda name=name: app.screen._tab == name and app.screen.focused is not None)
        await pilot.press("left_curly_bracket")
        await until(pilot, lambda: app.screen._tab == TABS[-1])
        await pilot.press("escape")
        await until(pilot, lambda: app.current_mode == "runs")

    drive(app, script)


def test_hostile_text_is_inert_in_every_tab(site, drive, until, text_of):
    evil = "\x1b]0;owned\x07\x9b31m[/][@click=app.quit]\u202e"
    run = site.run(recipe_name=evil)
    site.train(run.path, 1, 5, **{evil: 1.0})
    types = [{"type": "message", "level": "warning", "text": evil}, {"type": "start", "host": evil, "rank": evil}]
    types += [
        {"type": "sample", "prompt": evil, "text": evil, "step": evil},
        {"type": "end", "state": evil, "step": {}},
    ]
    types += [{"type": "sample", "prompt": evil, "text": evil, "step": 1}, {"type": "checkpoint", "name": evil}]
    types += [
        {"type": "system", "gpus": [{"gpu": evil, "utilization_percent": 1}], "cpu_percent": evil},
        {"type": evil},
    ]
    site.events(run.path, types)
    (run.path / "recipe.yaml").write_text(f"method: {evil}\n")
    (run.path / "logs" / "1-0.log").write_text(evil * 3 + "\n")
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "5/200" in text_of(app))
        for name in TABS:
            open_tab(app, name)
            await until(pilot, lambda name=name: app.screen._tab == name and app.screen.focused is not None)
            app.screen.read_now()
            await until(pilot, lambda: not app.screen._reading)
            assert not set(text_of(app)) & set("\x1b\x07\x9b\u202e"), name
        assert app.is_running

    drive(app, script, size=(120, 36))


def test_a_run_that_can_not_be_read_is_told(site, drive, until, text_of):
    run = site.run()
    app = NexaApp(site.services(), run_id="nothing")

    async def script(pilot):
        await until(pilot, lambda: "there is no run 'nothing'" in text_of(app))
        (run.path / "run.json").write_text("{}")
        await app.open_run(run.run_id)
        await until(pilot, lambda: "run format None" in text_of(app))

    drive(app, script, size=(200, 30))


def test_without_runs_it_says_where_to_begin(site, drive, until, text_of):
    app = NexaApp(site.services())

    async def script(pilot):
        await pilot.press("3")
        await until(pilot, lambda: "Press 1 to launch one" in " ".join(text_of(app).split()))

    drive(app, script)
