"""The observer `trackio`: the contract, and what it wrote, read back with trackio itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from nexa.testing.observer import RUN_ID, ObserverContract, sample_events

# Trackio reads it once, when it is imported; nothing of the person who runs the tests is written to.
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="nexa-trackio-")
pytest.importorskip("trackio")

_READ = """
import json
from trackio.api import SQLiteStorage
(name,) = SQLiteStorage.get_runs("nexa-tests")
print(json.dumps([name, SQLiteStorage.get_logs("nexa-tests", name)], default=str))
"""


class TestTrackio(ObserverContract):
    plugin_name = "trackio"
    options = {"project": "nexa-tests"}


def test_figures_are_read_back(tmp_path):
    """In a process of its own, as a worker is."""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    write = (
        "import sys, json; from pathlib import Path; from nexa_track.trackio import TrackioObserver\n"
        "observer = TrackioObserver()\n"
        "observer.open(sys.argv[1], Path('.'), {'method': 'sft'}, {'project': 'nexa-tests'})\n"
        "for record in json.loads(sys.argv[2]): observer.event(record)\n"
        "observer.close()"
    )
    command = [sys.executable, "-c", write, RUN_ID, json.dumps(list(sample_events()))]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    answer = subprocess.run([sys.executable, "-c", _READ], env=environment, check=True, capture_output=True, text=True)
    name, rows = json.loads(answer.stdout.splitlines()[-1])
    assert name == RUN_ID
    losses = {row["step"]: row["train/loss"] for row in rows if row.get("train/loss") is not None}
    assert losses == {step: 4.0 / step for step in range(1, 5)}
