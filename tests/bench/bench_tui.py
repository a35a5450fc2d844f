"""How quickly the terminal UI starts, draws, filters, and opens large files; nothing is asserted."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nexa.settings import Settings
from nexa.tui.app import NexaApp
from nexa.tui.charts.chart import Chart
from nexa.tui.charts.curves import ChartData, Curve, Curves
from nexa.tui.charts.pane import ChartsPane
from nexa.tui.data.log_index import LogIndex
from nexa.tui.data.log_lines import tail
from nexa.tui.data.runs import RunRow, matching
from nexa.tui.services import Services

_POINTS = 1_000_000
_LOG_BYTES = 1_000_000_000
_RUNS = 5_000

_FIRST_PAINT = """
import time; begin = time.perf_counter()
import asyncio, sys
from pathlib import Path
from nexa.settings import Settings
from nexa.tui.app import NexaApp
from nexa.tui.services import Services
async def main():
    async with NexaApp(Services(settings=Settings(runs_dir=Path(sys.argv[1])))).run_test() as pilot:
        await pilot.pause(0)
        print(time.perf_counter() - begin, time.process_time())
asyncio.run(main())
"""

_HELLO = """
import time; begin = time.perf_counter()
import asyncio
from textual.app import App
from textual.widgets import Static
class Hello(App):
    def compose(self): yield Static("hello")
async def main():
    async with Hello().run_test() as pilot:
        await pilot.pause(0)
        print(time.perf_counter() - begin, time.process_time())
asyncio.run(main())
"""
"""The least that Textual shows, to see what of the first paint is Textual's."""

_STARTS = 7


def main(argv: list[str]) -> None:
    """Measure and print, one figure a line; takes no options."""
    with tempfile.TemporaryDirectory() as folder:
        for name, value in (*_first_paint(Path(folder)), *_charts(Path(folder)), *_rows(), *_log(Path(folder))):
            print(f"{name:<52} {value}", flush=True)


def _first_paint(folder: Path) -> Iterator[tuple[str, str]]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")

    def start(code: str) -> tuple[float, float]:
        words = [sys.executable, "-c", code, str(folder / "runs")]
        wall, cpu = subprocess.run(words, capture_output=True, check=True, env=environment).stdout.split()
        return float(wall), float(cpu)

    for code in (_FIRST_PAINT, _HELLO):
        start(code)
    pairs = [(start(_FIRST_PAINT), start(_HELLO)) for _ in range(_STARTS)]
    for name, index in (("on the wall", 0), ("processor time", 1)):
        ours, hello = (min(pair[which][index] for pair in pairs) for which in (0, 1))
        ratio = statistics.median(pair[0][index] / pair[1][index] for pair in pairs)
        yield f"first paint, {name}, least of {_STARTS}", f"{ours:.2f} s ({ratio:.1f} of Textual's own {hello:.2f} s)"


def _charts(folder: Path) -> Iterator[tuple[str, str]]:
    x = np.arange(_POINTS, dtype=np.float64)
    y = np.sin(x / 1e5) + np.random.default_rng(1).normal(scale=0.1, size=_POINTS)
    y[_POINTS // 3] = 50.0
    axes = {"step": x, "time": x, "tokens": x}
    curves = Curves(
        charts=[ChartData(f"metric{n}", Curve(f"metric{n}", axes, y, y)) for n in range(8)],
        resumes={axis: np.empty(0) for axis in axes},
    )

    async def draw() -> list[float]:
        app = NexaApp(Services(settings=Settings(runs_dir=folder)))
        async with app.run_test(size=(200, 50)) as pilot:
            pane = ChartsPane()
            await app.screen.mount(pane)
            pane.update(curves)
            await pilot.pause()
            times = []
            for _ in range(5):
                begin = time.process_time()
                pane.redraw()
                for chart in pane.query(Chart):
                    chart.render_lines(chart.size.region)
                times.append(time.process_time() - begin)
            return times

    yield "8 charts of 1M points drawn, least of 5 (CPU)", f"{min(asyncio.run(draw())) * 1000:.0f} ms"


def _rows() -> Iterator[tuple[str, str]]:
    states = ("running", "failed", "failed")
    rows = [RunRow(run_id=str(n), search=f"20270101-run{n} sft/tiny {states[n % 3]}") for n in range(_RUNS)]
    begin = time.perf_counter()
    matching(rows, "run4 failed")
    yield "filter over 5,000 runs", f"{(time.perf_counter() - begin) * 1000:.1f} ms"


def _log(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / "log"
    line = json.dumps({"ts": 1, "level": "info", "event": "step 1 loss 2.5", "logger": "x"}).encode() + b"\n"
    block = line * (1_000_000 // len(line))
    with path.open("wb") as file:
        for _ in range(_LOG_BYTES // len(block)):
            file.write(block)
    begin = time.perf_counter()
    tail(path, 50)
    yield "end of a 1 GB log shown", f"{(time.perf_counter() - begin) * 1000:.1f} ms"
    index = LogIndex(path)
    begin = time.perf_counter()
    index.scan()
    yield "1 GB log counted", f"{time.perf_counter() - begin:.2f} s"
    begin = time.perf_counter()
    index.read(index.lines // 2, 50)
    yield "50 lines from its middle", f"{(time.perf_counter() - begin) * 1000:.1f} ms"
    yield "peak memory of this process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
