"""The shell around the screens: keys, help, palette, themes, sizes, ASCII, and what opening it costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from nexa.errors import UserError
from nexa.tui.app import NexaApp
from nexa.tui.ascii_filter import to_ascii
from nexa.tui.contrast import contrast_ratio
from nexa.tui.help import HelpScreen
from nexa.tui.keys import HEADINGS, KEYS, all_keys, check_keymap
from nexa.tui.palette import NexaCommands
from nexa.tui.preferences import Preferences
from nexa.tui.screens import SCREENS, entry_named
from nexa.tui.themes import THEMES
from nexa.tui.widgets.table import RowTable


def test_number_keys_open_the_six_screens(site, drive):
    app = NexaApp(site.services())

    async def script(pilot):
        for number, entry in enumerate(SCREENS, 1):
            await pilot.press(str(number))
            assert app.current_mode == entry.name
            assert entry.name == app.screen.ENTRY

    drive(app, script)


def test_no_key_does_two_things_on_one_screen():
    # Charts and log are tabs of the Run screen, never shown at once.
    together = [(entry.name, [s for s in entry.scopes if s != left]) for entry in SCREENS for left in ("charts", "log")]
    for name, scopes in together:
        taken: dict[str, str] = {}
        for scope in ("global", *scopes):
            for key in KEYS[scope]:
                for part in key.keys.split(","):
                    assert part not in taken, f"{name}: {part} is {taken.get(part)} and {key.id}"
                    taken[part] = key.id


def test_every_key_has_an_id_a_text_and_a_heading():
    ids = [key.id for key in all_keys()]
    assert len(ids) == len(set(ids))
    assert all(key.text for key in all_keys())
    assert set(KEYS) == set(HEADINGS)
    assert set(KEYS) == {"global", *(scope for entry in SCREENS for scope in entry.scopes)}


@pytest.mark.parametrize("name", ["runs", "run"])
def test_help_and_palette_hold_every_key_of_the_screen(site, drive, until, name):
    run = site.run()
    site.train(run.path, 1, 5)
    app = NexaApp(site.services())

    async def script(pilot):
        await app.action_open_screen(name)
        await until(pilot, lambda: app.screen.focused is not None)
        wanted = {key.id for scope in ("global", *entry_named(name).scopes) for key in KEYS[scope]}
        provider = NexaCommands(app.screen)
        offered = {key.id for key, _ in provider._keys()}
        # Some lists have nothing to open, and the palette does not offer itself.
        assert wanted - offered <= {"global.palette"}
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        shown = "\n".join(
            str(cell) for table in app.screen.tables for column in table.columns for cell in column._cells
        )
        assert all(key.text in shown and key.id in shown for key in all_keys() if key.id in wanted)
        await pilot.press("escape")
        assert name == app.screen.ENTRY

    drive(app, script)


def test_every_action_of_the_keys_exists(site, drive, until):
    run = site.run()
    site.train(run.path, 1, 5)
    app = NexaApp(site.services())

    async def script(pilot):
        for entry in SCREENS:
            await app.action_open_screen(entry.name)
            await until(pilot, lambda: app.screen.focused is not None or app.screen.is_current)
            nodes = [app, app.screen, *app.screen.walk_children()]
            for node in nodes:
                for found in node._bindings.key_to_bindings.values():
                    for binding in found:
                        if binding.id and binding.id.partition(".")[0] in KEYS:
                            action = binding.action.partition("(")[0].rpartition(".")[2]
                            holders = (node, *node.ancestors, app.screen)
                            assert any(hasattr(holder, f"action_{action}") for holder in holders), binding

    drive(app, script)


def test_keys_are_remapped_by_id(site, drive):
    site.run("first")
    app = NexaApp(site.services(), keymap={"global.cluster": "f9", "global.plugins": "5"})

    async def script(pilot):
        await pilot.press("f9")
        assert app.current_mode == "cluster"
        await pilot.press("5")
        assert app.current_mode == "plugins"

    drive(app, script)


def test_a_keymap_that_can_not_be_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"no key 'run\.stopp'") as refused:
        check_keymap({"run.stopp": "s"})
    assert "run.stop" in str(refused.value.hint)
    with pytest.raises(UserError, match=r"run\.kill and run\.stop|run\.stop and run\.kill"):
        check_keymap({"run.stop": "K"})


def test_the_theme_is_changed_and_remembered(site, drive, tmp_path):
    preferences = Preferences.load(tmp_path / "tui.json")
    app = NexaApp(site.services(preferences=preferences))

    async def script(pilot):
        seen = [app.theme]
        for _ in THEMES[1:]:
            await pilot.press("T")
            seen.append(app.theme)
        assert seen == [theme.name for theme in THEMES]

    drive(app, script)
    again = NexaApp(site.services(preferences=Preferences.load(tmp_path / "tui.json")))
    assert again.theme == THEMES[-1].name


def test_preferences_survive_damage_and_a_folder_that_can_not_be_written(tmp_path):
    path = tmp_path / "tui.json"
    path.write_text('{"theme": 7, "pinned": "x", "charts": {"a": 1}, "values": []}')
    assert Preferences.load(path) == Preferences(path=path, theme="7")
    (tmp_path / "file").write_text("")
    Preferences(path=tmp_path / "file" / "tui.json", theme="x").save()


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 12)])
def test_every_screen_is_drawn_at_any_size_and_after_a_resize(site, drive, until, size, text_of):
    run = site.run()
    site.train(run.path, 1, 40)
    app = NexaApp(site.services(), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "running" in text_of(app))
        for key in "123456":
            await pilot.press(key)
            await pilot.pause()
        await pilot.resize_terminal(100, 20)
        await pilot.press("3")
        await until(pilot, lambda: "running" in text_of(app))

    drive(app, script, size=size)


def test_ascii_draws_nothing_else(site, drive, until, text_of):
    run = site.run("naïve-名前")
    site.train(run.path, 1, 60)
    site.events(run.path, [{"type": "eval", "step": 30, "values": {"eval_loss": 1.5}}])
    app = NexaApp(site.services(ascii=True), run_id=run.run_id)

    async def script(pilot):
        await until(pilot, lambda: "running" in text_of(app))
        for key in ("t", "t", "2", "question_mark"):
            await pilot.press(key)
            await pilot.pause()
            assert text_of(app).isascii(), [c for c in text_of(app) if not c.isascii()]

    drive(app, script)


def test_ascii_stand_ins_are_as_wide_as_what_they_stand_for():
    assert to_ascii("│ é ⣿⠁ 名 ● ∞") == "| e #. ?? * ?"


def test_the_cursor_hides_no_text(site, drive, until, text_of):
    """In every theme, each cell under the cursor has a contrast of at least 3 (WCAG 2.2)."""
    for name, end in (("a", "failed"), ("b", None), ("c", "stopped")):
        site.run(name, end=end)
    app = NexaApp(site.services())
    low = []

    async def script(pilot):
        await until(pilot, lambda: "● running" in text_of(app) and "✗ failed" in text_of(app))
        table = app.screen.query_one("#runs", RowTable)
        for _ in THEMES:
            await pilot.press("T")
            for row in range(3):
                table.move_to(row)
                await pilot.pause()
                for segment in table.render_line(row + 1):
                    colours = (segment.style.color.triplet, segment.style.bgcolor.triplet)
                    if segment.text.strip() and contrast_ratio(*colours) < 3:
                        low.append((app.theme, segment.text))

    drive(app, script)
    assert low == []
    assert contrast_ratio((255, 255, 255), (0, 0, 0)) == pytest.approx(21)


def test_no_color_draws_without_colours(site, drive, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = NexaApp(site.services())
    assert "Monochrome" in [type(each).__name__ for each in app.get_line_filters()]


def test_states_are_told_without_colour():
    from nexa.runs.state import State
    from nexa.tui.glyphs import LOOKS

    assert set(LOOKS) == set(State)
    assert all(len(look.glyph) == 1 for look in LOOKS.values())


_FIRST_PAINT = """
import asyncio, sys
from pathlib import Path
from nexa.settings import Settings
from nexa.tui.app import NexaApp
from nexa.tui.services import Services

async def main():
    async with NexaApp(Services(settings=Settings(runs_dir=Path(sys.argv[1])))).run_test() as pilot:
        await pilot.pause()
asyncio.run(main())
print([name for name in ("torch", "transformers", "numpy", "pydantic") if name in sys.modules])
"""


def test_the_first_paint_loads_neither_torch_nor_numpy(site):
    site.run()
    answer = subprocess.run(
        [sys.executable, "-c", _FIRST_PAINT, str(site.runs_dir)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_without_textual_it_says_what_to_type(tmp_path):
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError('no textual', name='textual')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from nexa.cli.main import main; sys.exit(main(['tui']))"
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "pip install 'nexa-train[tui]'" in answer.stderr


def test_nexa_alone_prints_help_where_there_is_no_terminal():
    answer = subprocess.run([sys.executable, "-m", "nexa.cli.main"], capture_output=True, text=True, check=True)
    assert "Usage: nexa" in answer.stdout


def test_an_unknown_run_is_named(site, monkeypatch):
    from nexa.errors import RunError
    from nexa.tui.open import make_app

    site.run()
    monkeypatch.setenv("NEXA_RUNS_DIR", str(site.runs_dir))
    with pytest.raises(RunError, match="there is no run 'nothing'"):
        make_app(run="nothing")
    assert make_app(run="count").run_id is not None


def test_keys_come_from_the_settings_file(site, monkeypatch, tmp_path):
    from nexa.tui.open import make_app

    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("nexa.toml").write_text('[tui.keys]\n"run.stop" = "ctrl+s"\n')
    assert make_app()._keymap == {"run.stop": "ctrl+s"}
    Path("nexa.toml").write_text("[tui]\nkyes = {}\n")
    with pytest.raises(UserError, match=r"nexa\.toml.*kyes"):
        make_app()


def test_quitting_ends_the_app_and_nothing_else(site, drive):
    app = NexaApp(site.services())

    async def main():
        async with app.run_test() as pilot:
            await pilot.press("q")
            await pilot.pause()
            assert app._exit

    asyncio.run(main())


def test_a_click_on_the_bar_of_keys_presses_the_key(site, drive, until):
    from nexa.tui.help import HelpScreen
    from nexa.tui.widgets.bar import KeyBar

    app = NexaApp(site.services())

    async def script(pilot):
        bar = app.screen.query_one(KeyBar)
        await until(pilot, lambda: str(bar.content).endswith("? Help"))
        await pilot.click(KeyBar, offset=(bar.size.width - 2, 0))
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))

    drive(app, script, size=(60, 20))


def test_a_killed_view_leaves_the_run_as_it_is(site):
    """Watching writes nothing below the runs, so that it also works where they can't be written."""
    run = site.run()
    site.train(run.path, 1, 20)

    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in site.runs_dir.rglob("*")}

    before = files()
    # Textual passes on what is printed, but not that it be flushed.
    code = _FIRST_PAINT.replace(
        "await pilot.pause()",
        "await pilot.press('3'); print('up', file=sys.__stdout__, flush=True); await asyncio.sleep(600)",
    )
    with subprocess.Popen([sys.executable, "-c", code, str(site.runs_dir)], stdout=subprocess.PIPE, text=True) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "up\n"
        view.kill()
    assert files() == before


def test_a_full_disk_loses_preferences_and_nothing_else():
    """Linux's device that is always full stands for the disk."""
    Preferences(path=Path("/dev/full/tui.json"), theme="x").save()


def test_the_palette_reaches_a_hidden_tab(site, drive, until):
    from nexa.tui.keys import KEYS
    from nexa.tui.palette import NexaCommands
    from nexa.tui.widgets.log_view import LogView

    run = site.run()
    app = NexaApp(site.services(), run_id=run.run_id)
    wrap = next(key for key in KEYS["log"] if key.id == "log.wrap")

    async def script(pilot):
        await until(pilot, lambda: app.screen._shown_id == run.run_id)
        commands = NexaCommands(app.screen)
        node = {key.id: node for key, node in commands._keys()}["log.wrap"]
        view = app.screen.query_one(LogView)
        assert not view.wrap
        await commands._run(wrap, node)
        assert view.wrap

    drive(app, script)
