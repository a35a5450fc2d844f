"""Runs that Slurm interrupted end with the weights of runs that nothing interrupted, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from workspace import at_step, losses, status, wait

from nexa.runs.actions import open_store, requeue
from nexa.runs.state import State
from nexa.runs.store import Run


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of each weights file of a run's newest checkpoint."""
    name = status(run).checkpoint
    folder = Path(open_store(Run(run)).fetch(name))
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".npy", ".dat"))
    assert files, sorted(folder.rglob("*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_nodes_that_are_requeued_end_as_one_node_that_is_not(workspace):
    pytest.importorskip("torch")
    common = ("tiny.yaml", "--scheduler", "slurm", "training.max_steps=120", "training.save_every_steps=1000")
    two_nodes = workspace.launch(*common, "--nodes", "2")
    at_step(two_nodes, 5)
    requeue(Run(two_nodes))
    one_node = workspace.launch(*common, "cluster.processes_per_node=2")
    assert wait(one_node).state is State.COMPLETED
    done = wait(two_nodes)
    assert done.state is State.COMPLETED, (two_nodes / "logs" / "1-supervisor.log").read_text()
    assert len(Run(two_nodes).attempts) == 2
    assert losses(two_nodes) == losses(one_node)
    assert len(losses(two_nodes)) == 120
    assert weights(two_nodes) == weights(one_node)
    names = {path.name for path in (two_nodes / "logs").iterdir()}
    assert {"1-0.log", "1-1.log", "1-node0.log", "1-node1.log", "1-supervisor.log"} <= names
    nodes = [json.loads(path.read_text())["node"] for path in (two_nodes / "attempts/1/nodes").iterdir()]
    assert sorted(nodes) == ["n1", "n2"]


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
