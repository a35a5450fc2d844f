"""`nexa cluster`: what a scheduler has, and its own words when it can't be asked."""

from __future__ import annotations

import json
import socket

from nexa.cli.main import main
from nexa.runs.actions import stop


def test_this_machine_and_what_runs_on_it(runs, capsys):
    run = runs.launch(steps=10_000, step_seconds=0.05)
    runs.await_status(run, lambda status: (status.step or 0) > 0)
    assert main(["cluster"]) == 0
    text = capsys.readouterr().out
    assert socket.gethostname() in text
    assert run.run_id in text
    assert main(["cluster", "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["run_id"], job["state"]) == (run.run_id, "running")
    stop(run)
    runs.await_end(run)
    assert main(["cluster"]) == 0
    assert "No jobs of yours" in capsys.readouterr().out


def test_a_scheduler_that_is_down_is_quoted(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["cluster", "--scheduler", "slurm"]) == 1
    assert "there is no" in capsys.readouterr().err
    assert main(["cluster", "--scheduler", "slurm", "--json"]) == 1
    assert "there is no" in json.loads(capsys.readouterr().out)["problem"]


def test_an_unknown_scheduler_names_those_there_are(capsys):
    assert main(["cluster", "--scheduler", "pbs"]) == 2
    assert "local" in capsys.readouterr().err
