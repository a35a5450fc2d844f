"""The terminal UI over live runs: its tick, delay, answers, traffic and growth; nothing is asserted."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from textual import events

from nexa.errors import NexaError
from nexa.runs.store import Run
from nexa.settings import Settings
from nexa.tui.app import NexaApp
from nexa.tui.data.runs import RunCatalog
from nexa.tui.screens.runs import RunsScreen
from nexa.tui.services import Services
from nexa.tui.widgets.table import RowTable
from nexa.worker.identity import ProcessIdentity

_RUNS = 5_000
_ACTIVE = 20
_POLLS = 1_500
_IDLE_SECONDS = 10.0
_SUBMIT_SECONDS = 5.0
_SLOW_SUBMIT_KEYS = ("j", "k") * 15
_KEY_SECONDS = 0.12
"""Between two keys, so that they fall on every part of a tick."""

_WRITER = """
import json, sys, time
with open(sys.argv[1], "a") as file:
    now = time.time()
    file.write(json.dumps({"ts": now, "type": "metrics", "step": 900, "values": {"loss": 7.125}}) + "\\n")
print(now)
"""


def main(argv: list[str]) -> None:
    """Measure and print, one figure a line; takes no options."""
    for measure in (_tick, _delay, _answers, _traffic, _growth):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in measure(Path(folder)):
                print(f"{name:<60} {value}", flush=True)


def _make_run(runs_dir: Path, number: int, *, ended: bool) -> Run:
    """A run directory with one attempt and twenty steps; this process is its supervisor."""
    run_id = f"20270115-{number:06d}-run-abc"
    path = runs_dir / run_id
    attempt = path / "attempts" / "1"
    for folder in (attempt / "workers", path / "events", path / "logs"):
        folder.mkdir(parents=True)
    here, now = ProcessIdentity.current().document(), time.time()
    documents: dict[str, Any] = {
        "attempt.json": {"number": 1, "created_at": now},
        "job.json": {"scheduler": "local", "job_id": "1", "details": {}},
        "supervisor.json": here,
        "workers/0.json": here,
    }
    if ended:
        documents["exit.json"] = {"state": "completed", "exit_code": 0, "reason": "", "ended_at": now}
    for name, document in documents.items():
        (attempt / name).write_text(json.dumps(document))
    with (path / "events" / "1-0.jsonl").open("w") as file:
        for step in range(1, 21):
            file.write(_step(now, step))
    (path / "run.json").write_text(
        json.dumps({"schema": 1, "run_id": run_id, "created_at": now, "name": f"run{number}", "scheduler": "local"})
    )
    return Run(path)


def _step(moment: float, step: int) -> str:
    values = {"loss": 3 / step, "lr": 0.001, "tokens": step * 1000, "tokens_per_second": 950.0}
    return json.dumps({"ts": moment, "type": "metrics", "step": step, "values": values}) + "\n"


def _services(folder: Path, **fields: Any) -> Services:
    return Services(settings=Settings(runs_dir=folder), **fields)


def _tick(folder: Path) -> Iterator[tuple[str, str]]:
    for number in range(_RUNS):
        _make_run(folder, number, ended=number >= _ACTIVE)
    services = _services(folder)
    catalog = RunCatalog(services.store, clock=services.clock)
    while catalog.poll().pending:
        pass
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        found = catalog.poll()
        times.append(time.perf_counter() - begin)

    async def show() -> list[float]:
        app = NexaApp(services)
        async with app.run_test(size=(120, 40)) as pilot:
            screen = app.screen
            assert isinstance(screen, RunsScreen)
            screen.on_screen_suspend()
            shown = []
            for _ in range(20):
                begin = time.perf_counter()
                screen.show(found)
                shown.append(time.perf_counter() - begin)
            await pilot.pause()
            return shown

    yield f"tick at {_RUNS:,} runs, {_ACTIVE} active: read, median of 20", f"{sorted(times)[10] * 1000:.1f} ms"
    yield "    shown on the UI's thread, median of 20", f"{sorted(asyncio.run(show()))[10] * 1000:.1f} ms"


def _delay(folder: Path) -> Iterator[tuple[str, str]]:
    run = _make_run(folder, 1, ended=False)

    async def watch() -> float:
        app = NexaApp(_services(folder), run_id=run.run_id)
        async with app.run_test(size=(120, 40)) as pilot:
            while "run1" not in _text(app):
                await pilot.pause(0.01)
            command = [sys.executable, "-c", _WRITER, str(run.path / "events" / "1-0.jsonl")]
            writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            written = float((await writer.communicate())[0])
            while "7.125" not in _text(app):
                await pilot.pause(0.01)
            return time.time() - written

    yield "another process's metrics on screen", f"{asyncio.run(watch()):.2f} s"


def _text(app: NexaApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


def _answers(folder: Path) -> Iterator[tuple[str, str]]:
    for number in range(1, 4):
        _make_run(folder, number, ended=False)
    entered = threading.Event()

    def slow(*_: Any) -> Any:
        entered.set()
        time.sleep(_SUBMIT_SECONDS)
        raise NexaError("the queue is full")

    async def on_runs() -> list[tuple[float, float]]:
        app = NexaApp(_services(folder, requeue=slow))
        async with app.run_test(size=(120, 40)) as pilot:
            while "run1" not in _text(app):
                await pilot.pause(0.01)
            await pilot.press("Q", "y")
            while not entered.is_set():
                await pilot.pause(0.01)
            table = app.screen.query_one(RowTable)
            return [await _answer(app, key, lambda: table.cursor) for key in _SLOW_SUBMIT_KEYS]

    async def on_launch() -> list[tuple[float, float]]:
        app = NexaApp(_services(folder, launch=slow))
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.press("1")
            screen: Any = app.screen
            while screen.form is None or screen._checked is None:
                await pilot.pause(0.01)
            screen.form_view.focus()
            await pilot.press("f5")
            while not entered.is_set():
                await pilot.pause(0.01)
            return [await _answer(app, key, lambda: screen.form_view.highlighted) for key in _SLOW_SUBMIT_KEYS]

    for name, press in (("list of runs", on_runs), ("Launch", on_launch)):
        entered.clear()
        walls, busy = zip(*asyncio.run(press()), strict=True)
        wall, cpu = sorted(walls), sorted(busy)
        figures = f"{wall[len(wall) // 2] * 1000:.0f} ms, {wall[-1] * 1000:.0f} ms (CPU {cpu[-1] * 1000:.0f} ms)"
        yield f"a key while a submit sleeps, {name}: median, longest of {len(wall)}", figures


async def _answer(app: NexaApp, key: str, state: Callable[[], object]) -> tuple[float, float]:
    """Seconds from a key to what it changes being drawn: on the wall, and of this thread's processor time."""
    await asyncio.sleep(_KEY_SECONDS)
    assert app._driver is not None
    before, begin, busy = state(), time.perf_counter(), time.thread_time()
    app._driver.send_message(events.Key(key, key))
    while state() == before:
        await asyncio.sleep(0)
    app.screen._on_timer_update()
    return time.perf_counter() - begin, time.thread_time() - busy


def _traffic(folder: Path) -> Iterator[tuple[str, str]]:
    _make_run(folder, 1, ended=False)
    environment = {**os.environ, "NEXA_RUNS_DIR": str(folder), "TERM": "xterm-256color"}
    environment |= {"COLUMNS": "120", "LINES": "40"}
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(sys.executable, [sys.executable, "-m", "nexa.cli.main", "tui"], environment)
    try:
        for name, key in (("list of runs", b"2"), ("a run", b"3")):
            _bytes(terminal, 4.0)
            os.write(terminal, key)
            drawn = _bytes(terminal, 4.0)
            idle = _bytes(terminal, _IDLE_SECONDS)
            yield f"idle traffic, {name} ({drawn / 1000:.0f} kB drawn at first)", f"{idle / _IDLE_SECONDS:.0f} B/s"
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def _bytes(terminal: int, seconds: float) -> int:
    """Bytes that a terminal receives in a time."""
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            count += len(os.read(terminal, 65536))
    return count


def _growth(folder: Path) -> Iterator[tuple[str, str]]:
    run = _make_run(folder, 1, ended=False)
    process = psutil.Process()

    async def poll() -> tuple[int, int]:
        app = NexaApp(_services(folder), run_id=run.run_id)
        async with app.run_test(size=(120, 40)) as pilot:
            while "run1" not in _text(app):
                await pilot.pause(0.01)
            screen: Any = app.screen
            screen.on_screen_suspend()
            begin = 0
            for step in range(_POLLS + _POLLS // 5):
                if step == _POLLS // 5:
                    begin = process.memory_info().rss
                with (run.path / "events" / "1-0.jsonl").open("a") as file:
                    file.write(_step(time.time(), 100 + step))
                screen.show(screen.read())
                await pilot.pause(0)
            return begin, process.memory_info().rss

    begin, end = asyncio.run(poll())
    megabytes = f"{begin / 1e6:.1f} MB, {end / 1e6:.1f} MB"
    yield f"memory before and after {_POLLS:,} polls of a live run, a step each", megabytes


if __name__ == "__main__":
    main(sys.argv[1:])
