"""A project folder with a recipe of a backend that only counts, installed as a third party's is."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa.files import read_json
from nexa.plugins import get_host
from nexa.runs.actions import kill
from nexa.runs.state import run_statuses
from nexa.runs.store import RunStore
from nexa.sweeps.store import Sweep, SweepStore
from nexa.worker.identity import Liveness

BACKEND = Path(__file__).parents[1] / "launching" / "site" / "nexa_small.py"

RECIPE = """\
method: sft
backend: small
model:
  name: org/model
data:
  remote_uri: hf:org/rows
training:
  max_steps: 3
"""


class Sweeps:
    """The sweeps of the project folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = RunStore(folder / "runs")
        self.store = SweepStore(folder / "runs")

    def newest(self) -> Sweep:
        """The sweep that was made last."""
        return self.store.list()[0]

    def states(self, sweep: Sweep) -> list[str]:
        """State of every run, in order."""
        return [str(status.state) for status in run_statuses(sweep.runs())]

    def await_states(self, sweep: Sweep, wanted: list[str], *, seconds: float = 90.0) -> None:
        """Wait until the runs are in these states."""
        deadline = time.monotonic() + seconds
        while (states := self.states(sweep)) != wanted:
            log = sweep.path / "queue.log"
            assert time.monotonic() < deadline, (states, log.read_text() if log.exists() else "no log")
            time.sleep(0.1)

    def kill_queue(self, sweep: Sweep) -> None:
        """Kill the queue's process as a power cut does."""
        os.kill(read_json(sweep.queue_path)["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while sweep.queue_liveness() is Liveness.ALIVE:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeps]:
    """The current folder of the test; what it leaves running is ended."""
    site = tmp_path / "site"
    information = site / "nexa_small-3.1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-small\nVersion: 3.1\n")
    (information / "entry_points.txt").write_text("[nexa]\nsmall = nexa_small\n")
    shutil.copy(BACKEND, site)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(folder)
    get_host.cache_clear()
    made = Sweeps(folder)
    yield made
    get_host.cache_clear()
    for sweep in made.store.list():
        if sweep.queue_liveness() is Liveness.ALIVE:
            made.kill_queue(sweep)
    listed = made.runs.list()
    for run, status in zip(listed, run_statuses(listed), strict=True):
        if status.active:
            kill(run)
