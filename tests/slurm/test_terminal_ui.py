"""The terminal UI on a real Slurm: started from the form, waiting with a reason, running on a node, stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from tui_terminal import TMUX, Terminal, launch, open_recipe

from nexa.runs.actions import kill
from nexa.runs.state import State, run_status
from nexa.runs.store import RunStore

pytestmark = pytest.mark.skipif(TMUX is None, reason="needs tmux")

RECIPE = """\
description: Count the bytes of a few rows on the cluster
tags: [queue]
method: sft
backend: echo
scheduler: slurm
model: {name: byte-counts}
data:
  remote_uri: rows.jsonl
training:
  max_steps: 6
echo:
  delay_seconds: 0.05
"""
ALL_NODES = ("sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")


@pytest.fixture
def terminal(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[Terminal]:
    """A terminal in a project with the recipe `queued`; its runs are ended afterwards."""
    sources = pytestconfig.rootpath / "tests" / "packages" / "nexa-echo" / "src"
    information = tmp_path / "site" / "nexa_echo-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    (project / "nexa.toml").write_text('scheduler = "slurm"\n')
    (project / "recipes" / "queued.yaml").write_text(RECIPE)
    (project / "recipes" / "rows.jsonl").write_text('{"text": "one two three"}\n' * 8)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{sources}")
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    made = Terminal(project, variables=tuple(cluster.environment))
    yield made
    made.close()
    for run in RunStore(project / "runs").list():
        if run_status(run).active:
            kill(run)


def test_a_run_waits_in_the_queue_and_runs_on_a_node(cluster, terminal, tmp_path):
    blocker = cluster.command(*ALL_NODES).strip()
    try:
        terminal.open()
        terminal.await_text("1 Launch", "6 Plugins")
        open_recipe(terminal, "queued", words="byte-counts", hidden="quickstart")
        launch(terminal, "training.max_steps", "9000")
        terminal.await_text("queued", "on slurm", "it waits for nodes to become free")
        [run] = RunStore(tmp_path / "project" / "runs").list()
        terminal.press("5")
        terminal.await_text("partition", "pending", "nodes to become free")
    finally:
        cluster.command("scancel", blocker)
    terminal.await_screen(lambda shown: "running" in shown and any(f"n{n} for" in shown for n in (1, 2, 3)), "its node")
    terminal.press("3")
    terminal.await_text("running", "/9000", "loss")
    terminal.press("S")
    terminal.await_text(run.run_id, "(y)")
    terminal.press("y")
    terminal.await_text("stopped")
    deadline = time.monotonic() + 60
    while run_status(run).state is not State.STOPPED:
        assert time.monotonic() < deadline, run_status(run)
        time.sleep(0.1)
