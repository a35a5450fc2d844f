"""Runs that Slurm interrupted end with the weights of runs that nothing interrupted, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from workspace import at_step, losses, make_workspace, status, wait

from nexa.runs.actions import open_store, requeue
from nexa.runs.state import State
from nexa.runs.store import Run


@pytest.fixture
def workspace(cluster, tmp_path):
    made = make_workspace(tmp_path / "work")
    made.install_echo()
    yield made
    cluster.command("scancel", "--user=root", check=False)
    cluster.wait_idle()


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of each weights file of a run's newest checkpoint."""
    name = status(run).checkpoint
    folder = Path(open_store(Run(run)).fetch(name))
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".npy", ".dat"))
    assert files, sorted(folder.rglob("*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_requeued_training_ends_with_the_same_weights(workspace):
    pytest.importorskip("torch")
    length = ("training.max_steps=120", "training.save_every_steps=1000")
    whole = workspace.launch("tiny.yaml", *length)
    assert wait(whole).state is State.COMPLETED
    run = workspace.launch("tiny.yaml", "--scheduler", "slurm", *length)
    at_step(run, 5)
    requeue(Run(run))
    done = wait(run)
    assert done.state is State.COMPLETED
    assert len(Run(run).attempts) == 2
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_ten_time_limits_are_one_run(workspace):
    variables = workspace.echo_variables()
    length = ("training.max_steps=640", "echo.delay_seconds=0.5")
    whole = workspace.launch("echo.yaml", "training.max_steps=640", "echo.delay_seconds=0", **variables)
    assert wait(whole).state is State.COMPLETED
    limits = ("cluster.time_limit=1m", "cluster.stop_lead_seconds=20", "cluster.max_restarts=40")
    run = workspace.launch("echo.yaml", "--scheduler", "slurm", *length, *limits, **variables)
    assert wait(run, timeout=1400).state is State.COMPLETED
    attempts = Run(run).attempts
    ends = [attempt.read("exit") for attempt in attempts]
    assert len(attempts) >= 11, [end["reason"] for end in ends]
    assert all("end of the job's time" in end["reason"] for end in ends[:-1])
    assert len({attempt.read("job")["job_id"] for attempt in attempts}) == 1
    assert [attempt.read("job")["details"].get("restarts", 0) for attempt in attempts][-1] >= 9
    assert losses(run) == losses(whole)
    name = status(run).checkpoint
    last = Path(open_store(Run(run)).fetch(name))
    first = Path(open_store(Run(whole)).fetch(status(whole).checkpoint))
    data = {path.name: path.read_bytes() for path in first.iterdir() if path.name != "manifest.json"}
    assert data
    assert all((last / name).read_bytes() == content for name, content in data.items())
