"""The Launch screen, driven by keys."""

from __future__ import annotations

import asyncio
import shlex
import sys
import threading
import time
from pathlib import Path

import pytest

from nexa.recipe.load import load_recipe
from nexa.runs.store import RunStore
from nexa.tui.screens.launch import LaunchScreen
from nexa.tui.widgets.field_editor import FieldEditor
from nexa.tui.widgets.form_view import FormView
from nexa.tui.widgets.recipe_list import RecipeList

CONTROLS = {
    "training.max_steps": "Input",
    "optimizer.lr": "Input",
    "data.remote_uri": "Input",
    "training.precision": "Select",
    "scheduler": "Select",
    "samples.prompts": "TextArea",
    "echo.delay_seconds": "Input",
}


def launch_test(check):
    """Run an async test body."""

    def test(project, opened, until, screen_text):
        asyncio.run(check(project, opened, until, screen_text))

    test.__doc__ = check.__doc__
    return test


async def _on_tiny(pilot, until) -> LaunchScreen:
    """The screen with the recipe `tiny` open and checked."""
    screen = pilot.app.screen
    recipes = screen.query_one(RecipeList)
    await until(pilot, lambda: recipes.current is not None)
    recipes.go_to("tiny")
    await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "tiny" and screen._checked)
    screen.query_one(FormView).focus()
    return screen


async def _change(screen, pilot, until, path: str, text: str) -> None:
    """Go to a field, type into its control, end editing."""
    view, editor = screen.query_one(FormView), screen.query_one(FieldEditor)
    view.focus()
    assert view.go_to(path)
    await pilot.press("enter")
    await until(pilot, lambda: editor.control is not None and editor.control.has_focus)
    await pilot.press("end", "ctrl+u", *text)
    await pilot.press("enter")
    await until(pilot, lambda: view.has_focus and editor.control is None)


@launch_test
async def test_recipes_are_found_by_letters_and_tags(project, opened, until, screen_text):
    """Typing narrows the list down; arrows go into the list, Enter to the form."""
    async with opened() as pilot:
        recipes = pilot.app.screen.query_one(RecipeList)
        await until(pilot, lambda: recipes.choices.option_count > 3)
        await pilot.press("slash", *"tny")
        assert [entry.name for entry in recipes._found] == ["tiny"]
        await pilot.press("down")
        assert recipes.choices.has_focus
        await until(pilot, lambda: pilot.app.screen.form is not None and pilot.app.screen.form.path.stem == "tiny")
        await pilot.press("enter")
        assert pilot.app.screen.query_one(FormView).has_focus
        await pilot.press("escape", "slash", "escape")
        assert len(recipes._found) > 3


@launch_test
async def test_each_field_gets_the_control_of_its_type(project, opened, until, screen_text):
    """Switches and sections switch in place; everything else opens a control."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        view, editor = screen.query_one(FormView), screen.query_one(FieldEditor)
        for path, kind in CONTROLS.items():
            assert view.go_to(path), path
            await pilot.press("enter")
            await until(pilot, lambda: editor.control is not None)
            assert type(editor.control).__name__ == kind, path
            await pilot.press("escape")
            if editor.control is not None:
                await pilot.press("escape")
            await until(pilot, lambda: editor.control is None and view.has_focus)
        assert screen.form.edits == {}
        for path, value in (("data.packing", False), ("adapter", {})):
            view.go_to(path)
            await pilot.press("enter")
            assert screen.form.value(path) == value
        await until(pilot, lambda: view.go_to("adapter.rank"))


@launch_test
async def test_help_says_what_a_field_is_and_its_default(project, opened, until, screen_text):
    """Description, unit and default of the field under the cursor, of plugins' fields too."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        screen.query_one(FormView).go_to("training.log_every_steps")
        await until(pilot, lambda: "Optimizer steps between metric records. Default: 1." in screen_text(pilot.app))
        screen.query_one(FormView).go_to("echo.delay_seconds")
        await until(pilot, lambda: "Seconds to wait in every step" in screen_text(pilot.app))


@launch_test
async def test_a_wrong_value_is_said_at_its_field_stops_the_launch_and_takes_the_cursor(
    project, opened, until, screen_text
):
    """The message is the command's own."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "many")
        await until(pilot, lambda: "must be a whole number, not the text 'many'" in screen_text(pilot.app))
        screen.query_one(FormView).go_to("method")
        screen.query_one(RecipeList).choices.focus()
        await pilot.press("f5")
        await until(pilot, lambda: not screen._launching)
        view = screen.query_one(FormView)
        await until(pilot, lambda: view.has_focus and view.field.path == "training.max_steps")
        assert RunStore(project / "runs").list() == []
        await pilot.press("u")
        await until(pilot, lambda: "valid" in str(screen.query_one("#form-pane").border_subtitle))
        assert screen.form.edits == {}


@launch_test
async def test_changed_fields_alone(project, opened, until, screen_text):
    """`d` leaves the changed fields, `/` those whose name holds a text."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "4")
        view = screen.query_one(FormView)
        await pilot.press("d")
        assert [name for name in view._rows if not name.startswith("#")] == ["training.max_steps"]
        await pilot.press("d", "slash", *"seed")
        assert [name for name in view._rows if not name.startswith("#")] == ["training.seed", "training.max_steps"][:1]
        await pilot.press("escape")
        assert len(view._rows) > 20


@launch_test
async def test_preview_and_command_follow_every_change(project, opened, until, screen_text):
    """The command that is copied resolves to the form's recipe."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "4")
        await _change(screen, pilot, until, "run.name", "trial")
        await until(pilot, lambda: "+   max_steps: 4" in screen_text(pilot.app))
        assert "-   max_steps: 6" in screen_text(pilot.app)
        screen.query_one(FormView).focus()
        await pilot.press("y")
        words = shlex.split(pilot.app.clipboard)
        assert words == ["nexa", "launch", "tiny", "training.max_steps=4", "run.name=trial"]
        resolved = load_recipe(words[2], overrides=words[3:]).recipe
        assert resolved == screen.form.load().recipe


@launch_test
async def test_the_plan_shows_what_a_launch_does(project, opened, until, screen_text):
    """Parameters, memory by component, the exact command; nothing is started."""
    async with opened(size=(150, 70)) as pilot:
        screen = await _on_tiny(pilot, until)
        await pilot.press("p")
        await until(pilot, lambda: "Memory of a process" in screen_text(pilot.app))
        text = screen_text(pilot.app)
        for part in ("Plan for tiny", "256", "weights", "2.0 kB", "6 steps", "nexa.supervisor", "not known before"):
            assert part in text, part
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert RunStore(project / "runs").list() == []


@launch_test
async def test_the_plan_of_a_wrong_form_says_why(project, opened, until, screen_text):
    """What the command would print."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "data.remote_uri", "nowhere.jsonl")
        await pilot.press("p")
        await until(pilot, lambda: "It can't start here" in screen_text(pilot.app))
        assert "nowhere.jsonl" in screen_text(pilot.app)


@launch_test
async def test_f5_starts_the_recipe_as_it_stands_and_shows_the_run(project, opened, until, screen_text):
    """The run outlives the UI; its recorded command line is the equivalent command."""
    from nexa.runs.state import State, run_status

    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "4")
        await pilot.press("f5")
        await until(pilot, lambda: pilot.app.current_mode == "run")
        [run] = RunStore(project / "runs").list()
        assert pilot.app.run_id == run.run_id
    assert run.document["argv"] == ["nexa", "launch", "tiny", "training.max_steps=4"]
    deadline = time.monotonic() + 60
    while run_status(run).active:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (run_status(run).state, run_status(run).step) == (State.COMPLETED, 4)


@launch_test
async def test_keys_are_answered_while_a_submit_sleeps(project, opened, until, screen_text):
    """The launch is off the UI thread; a second F5 does nothing meanwhile."""
    release, entered = threading.Event(), []

    def slow_launch(plan, argv):
        entered.append(argv)
        assert release.wait(600)
        from nexa.launching import launch_plan

        return launch_plan(plan, argv=argv)

    async with opened(launch=slow_launch) as pilot:
        screen = await _on_tiny(pilot, until)
        view = screen.query_one(FormView)
        await pilot.press("f5")
        await until(pilot, lambda: entered)
        before = view.field.path
        await pilot.press("j", "j", "f5")
        assert view.field.path != before
        await pilot.press("6")
        await until(pilot, lambda: pilot.app.current_mode == "plugins")
        await pilot.press("1")
        assert len(entered) == 1
        release.set()
        await until(pilot, lambda: pilot.app.current_mode == "run")
    assert len(RunStore(project / "runs").list()) == 1


@launch_test
async def test_a_read_only_view_launches_nothing(project, opened, until, screen_text):
    """It says how to open it otherwise."""
    async with opened(readonly=True) as pilot:
        await _on_tiny(pilot, until)
        await pilot.press("f5")
        await until(pilot, lambda: "can't launch: this view is read-only" in screen_text(pilot.app))
    assert RunStore(project / "runs").list() == []


@launch_test
async def test_a_schedulers_refusal_is_shown(project, opened, until, screen_text):
    """In its own words, escapes made visible; the screen stays."""
    from nexa.errors import NexaError

    def refuse(plan, argv):
        raise NexaError("queue: invalid account \x1b[31m", hint="ask your site")

    async with opened(launch=refuse) as pilot:
        await _on_tiny(pilot, until)
        await pilot.press("f5")
        await until(pilot, lambda: "queue: invalid account ␛[31m" in screen_text(pilot.app))
        assert pilot.app.current_mode == "launch"


@launch_test
async def test_a_plugins_defect_does_not_end_the_ui(project, opened, until, screen_text):
    """It is told; the edits are still there."""

    def defect(plan, argv):
        raise KeyError("queue")

    async with opened(launch=defect) as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "4")
        await pilot.press("f5")
        await until(pilot, lambda: "internal error: KeyError" in screen_text(pilot.app))
        assert screen.form.edits == {"training.max_steps": 4}


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("text.replace('max_steps: 6', 'max_steps: 5  # enough')", "5  # enough"),
        ("text.replace('max_steps: 6', 'max_step: 5')", "did you mean 'max_steps'"),
    ],
)
def test_the_users_editor_changes_the_form(project, opened, until, screen_text, told, monkeypatch, script, outcome):
    """What is saved becomes edits with its comments; a mistake is said with its line, and the text is kept."""
    editor = project / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\ntext = p.read_text()\n"
        f"pathlib.Path({str(project / 'seen')!r}).write_text(text)\np.write_text({script})\n"
    )
    monkeypatch.setenv("EDITOR", shlex.join([sys.executable, str(editor)]))
    monkeypatch.delenv("VISUAL", raising=False)

    async def check() -> None:
        from contextlib import nullcontext

        async with opened() as pilot:
            # A test has no terminal to give away.
            monkeypatch.setattr(pilot.app, "suspend", nullcontext)
            screen = await _on_tiny(pilot, until)
            await pilot.press("e")
            await until(pilot, lambda: outcome in screen_text(pilot.app) or outcome in told(pilot.app))
            assert "# Counts bytes." in Path(project / "seen").read_text()
            if "max_step:" in script:
                assert screen.form.edits == {}
                await pilot.press("e")
                await until(pilot, lambda: "max_step: 5" in Path(project / "seen").read_text())
            else:
                assert screen.form.edits == {"training.max_steps": 5}

    asyncio.run(check())


def test_the_form_is_saved_as_a_new_recipe(project, opened, until, screen_text, told):
    """With its comments and edits, paths that hold from there; a file that exists is never replaced."""
    taken = project / "recipes" / "taken.yaml"
    taken.write_text("method: sft\n")

    async def check() -> None:
        async with opened() as pilot:
            screen = await _on_tiny(pilot, until)
            await _change(screen, pilot, until, "training.max_steps", "4")
            await pilot.press("w", "escape", "w", *"taken", "enter")
            await until(pilot, lambda: "taken.yaml exists already" in told(pilot.app))
            assert screen.form.edits == {"training.max_steps": 4}
            await pilot.press("w", *"mine", "enter")
            await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "mine")
            assert screen.form.edits == {}
            await pilot.press("w", *"other/", *"far.yml", "enter")
            await until(pilot, lambda: (project / "other" / "far.yml").exists() and screen.form is not None)
            screen.recipes.go_to("tiny")
            await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "tiny")
            assert screen.form.edits == {}

    asyncio.run(check())
    assert taken.read_text() == "method: sft\n"
    text = (project / "recipes" / "mine.yaml").read_text()
    for part in ("# Counts bytes.", "max_steps: 4", "remote_uri: rows.jsonl  # beside this file"):
        assert part in text, part
    for place in ("mine", "other/far.yml"):
        loaded = load_recipe(place)
        assert loaded.recipe.training.max_steps == 4
        assert Path(loaded.recipe.data.remote_uri) == project / "recipes" / "rows.jsonl"


def test_a_read_only_view_writes_no_file(project, opened, until, screen_text, told):
    """Saving is refused before a name is asked for; a folder that can't be written is told."""

    async def check(readonly: bool, words: str) -> None:
        async with opened(readonly=readonly) as pilot:
            await _on_tiny(pilot, until)
            await pilot.press("w", *([] if readonly else [*"file/x.yaml", "enter"]))
            await until(pilot, lambda: words in told(pilot.app))

    (project / "file").write_text("")
    asyncio.run(check(True, "can't write a file: this view is read-only"))
    asyncio.run(check(False, "file can't be made"))


@launch_test
async def test_edits_stay_with_their_recipe(project, opened, until, screen_text):
    """Looking at another recipe loses nothing."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        await _change(screen, pilot, until, "training.max_steps", "4")
        screen.recipes.go_to("v1")
        await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "v1")
        screen.recipes.go_to("tiny")
        await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "tiny")
        assert screen.form.edits == {"training.max_steps": 4}


@launch_test
async def test_a_broken_recipe_is_listed_with_its_problem(project, opened, until, screen_text):
    """And hostile text in it is inert."""
    (project / "recipes" / "broken.yaml").write_text("method: [\n")
    (project / "recipes" / "hostile.yaml").write_text(
        "description: '[bold red]x[/] '\ntags: ['[link=x]t[/link]']\nmethod: sft\n"
        "model: {name: '[b]m'}\ndata: {remote_uri: x}\n"
    )
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        screen.recipes.go_to("broken")
        await until(pilot, lambda: "can't be read" in str(screen.query_one("#form-pane").border_subtitle))
        await until(pilot, lambda: "broken.yaml" in screen_text(pilot.app))
        screen.recipes.go_to("hostile")
        await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "hostile")
        await until(pilot, lambda: "[b]m" in screen_text(pilot.app) and "[link=x]t[/link]" in screen_text(pilot.app))


@launch_test
async def test_schedulers_show_what_they_offer(project, opened, until, screen_text):
    """The scheduler's partitions, or its nodes, below its field."""
    async with opened() as pilot:
        screen = await _on_tiny(pilot, until)
        screen.query_one(FormView).go_to("scheduler")
        await until(pilot, lambda: "local has no partitions, 1 node" in screen_text(pilot.app))


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (200, 60)])
def test_every_size_shows_recipes_and_form(project, opened, until, screen_text, size):
    """At 80×24 the preview takes the form's place with `v`."""

    async def check() -> None:
        async with opened(size=size) as pilot:
            screen = await _on_tiny(pilot, until)
            await until(pilot, lambda: "max_steps" in screen_text(pilot.app) or "method" in screen_text(pilot.app))
            assert "Recipes" in screen_text(pilot.app)
            narrow = size[0] < 100
            assert ("same on the command" in screen_text(pilot.app)) is not narrow
            if narrow:
                await pilot.press("v")
                await until(pilot, lambda: "same on the command" in screen_text(pilot.app))
                await pilot.press("escape")
                await until(pilot, lambda: "same on the command" not in screen_text(pilot.app))
            assert screen.form is not None

    asyncio.run(check())
