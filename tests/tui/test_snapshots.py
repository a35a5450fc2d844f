"""What the screens look like, cell by cell and colour by colour; `tui_snapshots` says how to remake the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tui_snapshots import compare, skip_reason

from nexa.plugins import PluginEntry
from nexa.recipe.catalog import list_recipes
from nexa.recipe.jsonschema import recipe_json_schema
from nexa.runs.actions import open_store
from nexa.scheduler import ClusterView, JobState, NodeResources, Partition, QueuedJob
from nexa.settings import Settings
from nexa.tui.app import NexaApp
from nexa.tui.forms.fields import form_fields
from nexa.tui.screens.run import TABS
from nexa.tui.services import Services
from nexa.tui.themes import THEMES

pytestmark = pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())

NOW = 1_800_000_000.0

CLUSTER = ClusterView(
    taken_at=NOW - 12,
    partitions=[
        Partition(name="gpu", state="up", is_default=True, max_seconds=172800, nodes=8, idle_nodes=3),
        Partition(name="debug", state="up", max_seconds=3600, nodes=2, idle_nodes=2),
    ],
    nodes=[
        NodeResources(
            name="n01", partitions=["gpu"], state="mixed", cpus=64, free_cpus=8, gpus=8, free_gpus=2, gpu_type="a100",
            memory_bytes=512 << 30, free_memory_bytes=64 << 30,
        ),
        NodeResources(
            name="n02", partitions=["gpu", "debug"], state="idle", cpus=64, free_cpus=64, gpus=8, free_gpus=8,
            memory_bytes=512 << 30, free_memory_bytes=512 << 30,
        ),
        NodeResources(name="n03", partitions=["gpu"], state="down", reason="disk failed", cpus=64, gpus=8),
    ],
    jobs=[
        QueuedJob(
            job_id="41", name="captain", state=JobState.PENDING, reason="waits for 8 free GPUs", partition="gpu",
            submitted_at=NOW - 60, expected_start=NOW + 600,
        ),
        QueuedJob(
            job_id="40", name="count", state=JobState.RUNNING, partition="gpu", nodes=["n01"], started_at=NOW - 600,
            limit_seconds=3600,
        ),
    ],
)  # fmt: skip

PLUGINS = [
    PluginEntry(name="torch", kind="backend", entry_point="torch", distribution="nexa", version="1", status="ok"),
    PluginEntry(name="slurm", kind="scheduler", entry_point="slurm", distribution="nexa", version="1", status="ok"),
    PluginEntry(
        name="bad", kind="", entry_point="bad", distribution="nexa-bad", version="2", status="error",
        message="no module 'x'", traceback="Traceback (most recent call last):\n  boom",
    ),
]  # fmt: skip

HOST = SimpleNamespace(
    report=lambda: PLUGINS,
    specs=lambda kind: [SimpleNamespace(name="slurm")] if kind == "scheduler" else [],
    create=lambda kind, name: SimpleNamespace(cluster=lambda: CLUSTER),
)


TAB_WORDS = {
    "charts": "loss", "log": "boom", "system": "97 %", "config": "small", "artifacts": "step-", "events": "on",
}  # fmt: skip
"""By tab after the first, what it shows when it has been read."""

RECIPES = {
    "tiny": "# A first try.\ndescription: Count words\ntags: [tiny, sft]\nmethod: sft\nmodel: {name: words}\n"
    "data:\n  remote_uri: /data/words.jsonl  # not here\noptimizer:\n  lr: 0.001  # small\n",
    "large": "tags: [large, pretrain]\nmethod: pretrain\nmodel: {name: words}\ndata: {remote_uri: x}\n",
    "broken": "method: [\n",
}

FIELDS = (
    "method", "backend", "scheduler", "model.name", "data.remote_uri", "data.packing", "training.max_steps",
    "training.precision", "optimizer.lr", "adapter", "adapter.rank",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _trained(site):
    """A live run with everything that tabs show, and three others."""
    failed = site.run("broken", end="failed")
    site.train(failed.path, 1, 12)
    site.run("waiting-for-nothing", silent=4000.0)
    done = site.run("first-try", end="completed")
    site.train(done.path, 1, 200)
    run = site.run("captain")
    site.train(run.path, 1, 60)
    site.events(run.path, [{"type": "eval", "step": step, "values": {"eval_loss": 2 - step / 60}} for step in (30, 60)])
    site.events(run.path, [{"type": "sample", "step": 60, "prompt": "Who are you?", "text": "A captain at sea."}])
    site.events(run.path, [{"type": "message", "level": "warning", "text": "disk is nearly full"}])
    gpu = {"gpu": "0", "utilization_percent": 97, "memory_bytes": 7e10, "memory_total_bytes": 1.5e11, "power_watts": 5}
    meters = {"type": "system", "cpu_percent": 250, "rss_bytes": 4e9, "machine_memory_total_bytes": 1e11}
    site.events(
        run.path,
        [
            {**meters, "machine_cpu_percent": 40 + n, "machine_memory_bytes": 2e10 + n * 1e9, "gpus": [gpu]}
            for n in range(20)
        ],
    )
    lines = [{"ts": NOW - 600 + n, "level": "info", "event": f"step {n} loss {3 - n / 40:.3f}"} for n in range(50)]
    lines[30] = {"ts": NOW - 570, "level": "warning", "event": "gradient norm 40 clipped to 1"}
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (run.path / "logs" / "1-0.log").write_text(log + "Traceback (most recent call last):\n  boom\n")
    staged = run.path / "checkpoints" / "s"
    staged.mkdir()
    (staged / "weights").write_text("w" * 5000)
    name = f"checkpoints/{run.run_id}/step-00000060"
    manifest = {"metrics": {"loss": 1.25, "eval_loss": 1.0}, "lineage": {"code": "abc"}}
    open_store(run).commit(staged, name, kind="checkpoint", manifest=manifest)
    site.events(run.path, [{"type": "checkpoint", "step": 60, "name": name, "bytes": 5000, "hash": "x"}])
    for path in site.runs_dir.iterdir():
        _elsewhere(path)
    return run, done


def _app(site, **services):
    """The app over a folder whose path is the same everywhere."""
    services = Services(settings=Settings(runs_dir=Path("runs")), clock=lambda: NOW, host=lambda: HOST, **services)
    return NexaApp(services)


def _elsewhere(path):
    """Another machine has the run's processes."""
    for file in path.rglob("attempts/1/**/*.json"):
        document = json.loads(file.read_text())
        if "host" in document:
            file.write_text(json.dumps({**document, "host": "node7"}))


async def _read(pilot, until):
    """Until the screen shows what it read."""
    await until(pilot, lambda: not pilot.app.screen._reading and not pilot.app.screen._read_again)
    await pilot.pause()


async def _show(pilot, until, text_of, key, words):
    await pilot.press(key)
    await until(pilot, lambda: words in text_of(pilot.app))
    await _read(pilot, until)


@pytest.mark.parametrize(("size", "look"), [((100, 30), ""), ((80, 24), "-80x24")])
def test_every_screen_looks_as_kept(site, drive, until, text_of, size, look):
    run, done = _trained(site)
    app = _app(site)
    app.compared = [run.run_id, done.run_id]

    async def script(pilot):
        for key, name, words in (
            ("2", "runs", "● running"),
            ("3", "run", "captain at sea"),
            ("4", "compare", "loss"),
            ("5", "cluster", "n03"),
            ("6", "plugins", "boom"),
        ):
            await _show(pilot, until, text_of, key, words)
            await compare(app, pilot, name + look)
        await pilot.press("2", "question_mark")
        await pilot.pause()
        await compare(app, pilot, "help" + look)

    drive(app, script, size=size)


def test_every_tab_of_a_run_looks_as_kept(site, drive, until, text_of):
    _trained(site)
    app = _app(site)
    assert set(TAB_WORDS) == set(TABS[1:])

    async def script(pilot):
        await _show(pilot, until, text_of, "3", "captain at sea")
        for name, words in TAB_WORDS.items():
            app.screen.open_tab(name)
            await until(pilot, lambda name=name, words=words: app.screen._tab == name and words in text_of(app))
            await _read(pilot, until)
            await compare(app, pilot, f"run-{name}")

    drive(app, script)


@pytest.mark.parametrize("theme", THEMES[1:], ids=lambda theme: theme.name)
def test_every_theme_looks_as_kept(site, drive, until, text_of, preferences, theme):
    run, done = _trained(site)
    preferences.theme = theme.name
    app = _app(site, preferences=preferences)
    app.compared = [run.run_id, done.run_id]
    look = theme.name.removeprefix("nexa-")

    async def script(pilot):
        for key, name, words in (
            ("4", "compare", "loss"),
            ("2", "runs", "● running"),
            ("5", "cluster", "n03"),
            ("6", "plugins", "boom"),
            ("3", "run", "captain at sea"),
        ):
            await _show(pilot, until, text_of, key, words)
            await compare(app, pilot, f"{name}-{look}")
        for name, words in TAB_WORDS.items():
            app.screen.open_tab(name)
            await until(pilot, lambda name=name, words=words: app.screen._tab == name and words in text_of(app))
            await _read(pilot, until)
            await compare(app, pilot, f"run-{name}-{look}")

    drive(app, script)


def test_what_is_shown_follows_the_theme(site, drive, until, text_of):
    """`T` on a tab that is read once colours it anew."""
    _trained(site)
    app = _app(site)

    async def script(pilot):
        await _show(pilot, until, text_of, "3", "captain at sea")
        app.screen.open_tab("config")
        await until(pilot, lambda: "small" in text_of(app))
        await pilot.press("T")
        await _read(pilot, until)
        await compare(app, pilot, "run-config-light")

    drive(app, script)


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Three recipes and the form's first fields: what is added to Nexa later changes no picture."""
    (tmp_path / "nexa.toml").write_text("")
    (tmp_path / "recipes").mkdir()
    for name, words in RECIPES.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(words)

    def read(services):
        fields = form_fields(recipe_json_schema(), choices={})
        shown = [field for path in FIELDS for field in fields if field.path == path]
        return [entry for entry in list_recipes() if entry.source == "project"], tuple(shown)

    monkeypatch.setattr("nexa.tui.screens.launch.read_recipes", read)


@pytest.mark.parametrize(
    ("size", "theme", "look"),
    [
        ((100, 30), THEMES[0], ""),
        *(((100, 30), theme, theme.name.removeprefix("nexa")) for theme in THEMES[1:]),
        ((80, 24), THEMES[0], "-80x24"),
        ((200, 60), THEMES[0], "-200x60"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_launch_looks_as_kept(site, recipes, drive, until, text_of, preferences, size, theme, look):
    """A form with a changed field, one that is wrong, and one of a section that is off."""
    preferences.theme = theme.name
    app = _app(site, preferences=preferences)

    async def script(pilot):
        await pilot.press("1")
        screen = app.screen
        await until(pilot, lambda: screen.recipes.current is not None)
        screen.recipes.go_to("tiny")
        await until(pilot, lambda: screen.form is not None and screen.form.path.stem == "tiny")
        screen.form.set_text("optimizer.lr", "0.002")
        screen.form.set_text("training.max_steps", "many")
        screen._check_now()
        screen.form_view.focus()
        await until(pilot, lambda: "2 changed" in str(screen.query_one("#form-pane").border_subtitle))
        screen.form_view.go_to("training.max_steps")
        await _read(pilot, until)
        await compare(app, pilot, f"launch{look}")

    drive(app, script, size=size)


def test_ascii_without_colours_looks_as_kept(site, drive, until, text_of, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    _trained(site)
    app = _app(site, ascii=True)

    async def script(pilot):
        await _show(pilot, until, text_of, "3", "captain at sea")
        await compare(app, pilot, "run-ascii")

    drive(app, script)
