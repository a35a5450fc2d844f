"""The Runs screen: states, filter, sort, pins, selection, and actions that ask first."""

from __future__ import annotations

import shutil

import pytest

from nexa.runs.actions import open_store
from nexa.runs.state import State
from nexa.runs.store import RunStore
from nexa.tui.app import NexaApp
from nexa.tui.data.runs import RunCatalog, RunRow, matching
from nexa.tui.preferences import Preferences
from nexa.tui.widgets.dialogs import Choice, Question
from nexa.tui.widgets.table import RowTable


def table(app):
    return app.screen.query_one("#runs", RowTable)


def names(app):
    return [row.name for row in table(app).rows]


def test_the_list_tells_states_steps_and_losses(site, drive, until, text_of):
    site.train(site.run("alive").path, 1, 30)
    site.run("done", end="completed")
    site.run("silent", silent=120.0)
    app = NexaApp(site.services())

    async def script(pilot):
        await until(pilot, lambda: "● running" in text_of(app))
        text = text_of(app)
        assert "✓ completed" in text
        # Silence is never called a failure.
        assert "○ stale" in text
        assert "failed" not in text
        assert "30/200" in text
        assert names(app) == ["silent", "done", "alive"]

    drive(app, script, size=(120, 30))


def test_a_filter_keeps_what_matches_and_escape_clears_it(site, drive, until):
    for name in ("alpha", "beta", "gamma"):
        site.run(name, end="completed")
    app = NexaApp(site.services())

    async def script(pilot):
        await until(pilot, lambda: len(names(app)) == 3 and table(app).rows[0].state is not None)
        await pilot.press("slash", *"completed -beta")
        await until(pilot, lambda: names(app) == ["gamma", "alpha"])
        await pilot.press("escape")
        assert len(names(app)) == 3
        assert app.screen.focused is table(app)

    drive(app, script)


def test_filters_look_in_all_words():
    rows = [RunRow(run_id=str(n), search=f"run{n} recipe{n % 3} {'failed' if n % 2 else 'running'}") for n in range(60)]
    assert [row.run_id for row in matching(rows, "RECIPE1 failed")] == [
        str(n) for n in range(60) if n % 3 == 1 and n % 2
    ]
    assert len(matching(rows, "-failed")) == 30
    assert len(matching(rows, "")) == 60


def test_sorting_pinning_and_selecting(site, drive, until, tmp_path):
    for index, name in enumerate(("b", "c", "a")):
        site.train(site.run(name, end="completed").path, 1, 10 * (index + 1))
    app = NexaApp(site.services(preferences=Preferences.load(tmp_path / "tui.json")))

    async def script(pilot):
        await until(pilot, lambda: len(names(app)) == 3 and table(app).rows[0].step is not None)
        assert names(app) == ["a", "c", "b"]
        await pilot.press("s")
        assert names(app) == ["b", "c", "a"]
        await pilot.press("s", "s", "s")
        assert app.screen._sort == ("state", False)
        await pilot.press("s", "s", "s")
        assert app.screen._sort == ("run", True)
        assert names(app) == ["c", "b", "a"]
        table(app).move_to(2)
        await pilot.press("asterisk")
        assert names(app)[0] == "a"
        table(app).move_to(1)
        await pilot.press("space", "space")
        assert len(app.screen.targets()) == 2
        await pilot.press("c")
        assert app.current_mode == "compare"
        assert len(app.compared) == 2

    drive(app, script)
    assert len(Preferences.load(tmp_path / "tui.json").pinned) == 1


@pytest.mark.parametrize(("key", "verb"), [("S", "stop"), ("K", "kill"), ("Q", "requeue")])
def test_an_action_asks_first_and_names_the_run(site, drive, until, text_of, key, verb):
    run = site.run("precious")
    done: list[str] = []
    app = NexaApp(site.services(**{verb: lambda run: done.append(run.run_id)}))

    async def script(pilot):
        await until(pilot, lambda: app.screen.ENTRY == "runs" and names(app) == ["precious"])
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, Question))
        assert f"{verb.capitalize()} {run.run_id}?" in text_of(app)
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, Question))
        assert done == []
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: done == [run.run_id])

    drive(app, script)


def test_a_schedulers_defect_does_not_end_the_ui(site, drive, until, told):
    """It is told, and the list goes on."""
    site.run("precious")

    def defect(*_):
        raise KeyError("queue")

    app = NexaApp(site.services(stop=defect, resume=defect))

    async def script(pilot):
        await until(pilot, lambda: names(app) == ["precious"])
        for key, command in (("S", "nexa stop"), ("R", "nexa resume")):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press("y")
            await until(pilot, lambda command=command: f"NEXA_DEBUG=1 {command}" in told(app))
        assert "internal error: KeyError: 'queue'" in told(app)
        assert app.is_running

    drive(app, script)


def test_dangerous_questions_begin_on_cancel(site, drive, until):
    site.run("precious")
    done: list[str] = []
    app = NexaApp(site.services(kill=lambda run: done.append(run.run_id), stop=lambda run: done.append(run.run_id)))

    async def script(pilot):
        await until(pilot, lambda: bool(names(app)))
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, Question))
        assert done == []

    drive(app, script)


def test_read_only_refuses_every_action(site, drive, until):
    site.run("precious")
    done: list[str] = []
    acts = {verb: lambda run: done.append(run.run_id) for verb in ("stop", "kill", "requeue")}
    app = NexaApp(site.services(readonly=True, resume=lambda run, name: done.append("resume"), **acts))

    async def script(pilot):
        await until(pilot, lambda: bool(names(app)))
        for key in "SKQR":
            await pilot.press(key)
            await pilot.pause()
            assert app.screen.ENTRY == "runs"
        assert [note.severity for note in app._notifications] == ["warning"] * 4
        assert all("read-only" in note.message for note in app._notifications)
        assert done == []

    drive(app, script)


def test_a_failed_action_says_why(site, drive, until):
    from nexa.errors import RunError

    site.run("precious")

    def refuse(run):
        raise RunError("run [bold]x\x1b[2J is not running", hint="see: nexa show")

    app = NexaApp(site.services(stop=refuse))

    async def script(pilot):
        await until(pilot, lambda: bool(names(app)))
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: bool(len(app._notifications)))
        (note,) = app._notifications
        assert note.message == "run [bold]x␛[2J is not running\nsee: nexa show"

    drive(app, script)


def test_resume_lets_a_checkpoint_be_chosen(site, drive, until):
    run = site.run("precious", end="stopped")
    store = open_store(run)
    for step in (100, 200):
        staged = run.path / "checkpoints" / str(step)
        staged.mkdir()
        (staged / "weights").write_text(str(step))
        store.commit(staged, f"checkpoints/{run.run_id}/step-{step:08d}", kind="checkpoint", manifest={})
    resumed: list[str | None] = []

    class Attempt:
        number = 2

    def resume(run, checkpoint):
        resumed.append(checkpoint)
        return Attempt

    app = NexaApp(site.services(resume=resume))

    async def script(pilot):
        await until(pilot, lambda: bool(names(app)))
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: len(resumed) == 1)
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("enter")
        await until(pilot, lambda: len(resumed) == 2)

    drive(app, script)
    assert resumed == [f"checkpoints/{run.run_id}/step-00000100", None]


def test_thousands_of_runs_are_read_bit_by_bit_and_drawn_a_screenful_at_a_time(site, drive, until):
    for index in range(300):
        site.run(f"r{index}", end=("completed", "failed", "stopped")[index % 3])
    app = NexaApp(site.services())

    async def script(pilot):
        await until(pilot, lambda: len(names(app)) == 300 and app.screen._pending == 0)
        drawn: list[int] = []
        rows = table(app)
        render = rows.render_line
        rows.render_line = lambda y: drawn.append(y) or render(y)
        app.screen.show(app.screen._catalog.poll())
        await pilot.pause()
        assert drawn == []
        await pilot.press("slash", *"failed")
        await until(pilot, lambda: len(names(app)) == 100)
        assert max(drawn) < 30

    drive(app, script)


def test_damaged_and_vanishing_runs_do_not_hide_the_others(site):
    fine, broken, gone = site.run("fine"), site.run("broken"), site.run("gone")
    catalog = RunCatalog(RunStore(site.runs_dir), clock=lambda: site.now)
    (broken.path / "run.json").write_text("{]")
    rows = {row.run_id: row for row in catalog.poll().rows}
    assert rows[fine.run_id].state is State.RUNNING
    assert rows[broken.run_id].state is State.FAILED
    assert "run.json" in rows[broken.run_id].reason
    shutil.rmtree(gone.path)
    site.run("new")
    assert [row.name for row in catalog.poll().rows if row.run_id != broken.run_id] == ["new", "fine"]


def test_a_resume_from_another_terminal_is_noticed(site):
    run = site.run("again", end="stopped")
    catalog = RunCatalog(RunStore(site.runs_dir), clock=lambda: site.now)
    assert catalog.poll().rows[0].state is State.STOPPED
    site.attempt(run.path, 2)
    site.train(run.path, 1, 3, attempt=2)
    row = catalog.poll().rows[0]
    assert (row.state, row.attempts) == (State.RUNNING, 2)


def test_hostile_names_are_shown_inert(site, drive, until, text_of):
    site.run("evil", end="failed", recipe_name="\x1b]0;owned\x07[/bold][@click=app.quit]x", user="‮")
    app = NexaApp(site.services())

    async def script(pilot):
        await until(pilot, lambda: "evil" in text_of(app))
        text = text_of(app)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "␛]0;own" in text
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.ENTRY == "run" and "evil" in text_of(app))
        assert "\x1b" not in text_of(app)

    drive(app, script, size=(140, 30))
