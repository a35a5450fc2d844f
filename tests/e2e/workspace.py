"""The real command line in subprocesses, with a tiny model on the bytes tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

RECIPE = """\
method: sft
model:
  name: llama
  tokenizer: bytes
  d_model: 64
  n_layers: 2
  n_heads: 4
  max_seq_len: 128
data:
  remote_uri: rows.jsonl
training:
  microbatch_size_per_gpu: 2
  global_batch_size: 4
  max_steps: 4
  save_every_steps: 2
optimizer:
  lr: 1e-3
cluster:
  threads_per_process: 1
"""

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one?"},
            {"role": "assistant", "content": f"Arr, {number} and one be {number + 1}."},
        ]
    }
    for number in range(40)
]


@dataclass(frozen=True)
class Outcome:
    """How one command ended."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Workspace:
    """A folder with a recipe and data, and the `nexa` command in it."""

    folder: Path

    @property
    def runs_dir(self) -> Path:
        """Where runs of this workspace lie."""
        return self.folder / "runs"

    @property
    def store(self) -> Path:
        """Where artifacts of this workspace lie."""
        return self.folder / "artifacts"

    def environment(self, **variables: str) -> dict[str, str]:
        """This process's environment, pointed at the workspace."""
        return {
            **os.environ,
            "NEXA_RUNS_DIR": str(self.runs_dir),
            "NEXA_STORE_URI": str(self.store),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "OMP_NUM_THREADS": "1",
            **variables,
        }

    def popen(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command, in a process group of its own, with captured output."""
        return subprocess.Popen(
            [sys.executable, "-m", "nexa.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def nexa(self, *arguments: str, timeout: float = 60.0, **variables: str) -> Outcome:
        """Run a command to its end."""
        process = self.popen(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Outcome(process.returncode, out, err)

    def launch(self, *arguments: str) -> Path:
        """Launch a run, detached, and return its folder."""
        outcome = self.nexa("launch", *arguments, "--json", "--detach")
        assert outcome.exit_code == 0, outcome.err
        return self.runs_dir / outcome.json["run_id"]

    def wait(self, run: Path, *, timeout: float = 60.0) -> Mapping[str, Any]:
        """Wait until a run has ended and return its status."""
        ended = {"completed", "stopped", "failed", "killed", "lost"}
        return until(lambda: self.status(run), lambda status: status["state"] in ended, timeout=timeout)

    def status(self, run: Path) -> Mapping[str, Any]:
        """What `nexa show --json` says of a run."""
        outcome = self.nexa("show", run.name, "--json")
        assert outcome.exit_code == 0, outcome.err
        status: Mapping[str, Any] = outcome.json
        return status


def until(ask: Callable[[], T], good: Callable[[T], bool], *, timeout: float = 60.0) -> T:
    """Ask again until the answer is good; fails with the last answer."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if good(answer):
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s; the last answer was {answer!r}")
        time.sleep(0.05)


def events(run: Path, type: str | None = None) -> list[dict[str, Any]]:
    """Events of a run's first rank over all attempts, whole lines only."""
    records = []
    for path in sorted((run / "events").glob("*-0.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        records += [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if type is None or record["type"] == type]


def make_workspace(folder: Path) -> Workspace:
    """Write the recipe and its data into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Workspace(folder)


def end_all(workspace: Workspace) -> None:
    """Kill whatever a test left running."""
    if workspace.runs_dir.is_dir():
        for run in workspace.runs_dir.iterdir():
            if workspace.status(run)["state"] in {"queued", "starting", "running", "stopping"}:
                workspace.nexa("kill", run.name)
