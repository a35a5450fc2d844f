"""The real command line in subprocesses, with a tiny model on the bytes tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nexa.runs.actions import kill
from nexa.runs.state import RunStatus, run_status
from nexa.runs.store import Run

ECHO_SOURCE = Path(__file__).parent.parent / "packages" / "nexa-echo" / "src"

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

ECHO_RECIPE = """\
method: pretrain
backend: echo
model:
  name: byte-counts
data:
  remote_uri: words.jsonl
training:
  max_steps: 100000
  save_every_steps: 1000000
echo:
  delay_seconds: 0.02
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

    def nexa(self, *arguments: str, timeout: float = 120.0, **variables: str) -> Outcome:
        """Run a command to its end."""
        process = self.popen(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Outcome(process.returncode, out, err)

    def launch(self, *arguments: str, **variables: str) -> Path:
        """Launch a run, detached, and return its folder."""
        outcome = self.nexa("launch", *arguments, "--json", "--detach", **variables)
        assert outcome.exit_code == 0, outcome.err
        return self.runs_dir / outcome.json["run_id"]

    def install_echo(self) -> None:
        """Install the package nexa-echo for this workspace.

        Its backend trains a model of byte counts on the standard library, so that its workers start
        at once.
        """
        information = self.folder / "site" / "nexa_echo-0.1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
        (information / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
        (self.folder / "echo.yaml").write_text(ECHO_RECIPE)
        (self.folder / "words.jsonl").write_text('{"text": "ahoy"}\n{"text": "belay"}\n')

    def echo_variables(self) -> dict[str, str]:
        """Variables that let a command see nexa-echo."""
        return {"PYTHONPATH": os.pathsep.join([str(self.folder / "site"), str(ECHO_SOURCE)])}


def until(ask: Callable[[], T], good: Callable[[T], bool], *, timeout: float = 120.0) -> T:
    """Ask again until the answer is good; fails with the last answer."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if good(answer):
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s; the last answer was {answer!r}")
        time.sleep(0.1)


def status(run: Path) -> RunStatus:
    """What every command that shows a run says of it."""
    return run_status(Run(run))


def wait(run: Path, *, timeout: float = 200.0) -> RunStatus:
    """Wait until a run has ended and return its status."""
    return until(lambda: status(run), lambda seen: not seen.active, timeout=timeout)


def events(run: Path, type: str | None = None) -> list[dict[str, Any]]:
    """Events of a run's first rank over all attempts, whole lines only."""
    records = []
    for path in sorted((run / "events").glob("*-0.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        records += [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if type is None or record["type"] == type]


def losses(run: Path) -> dict[int, float]:
    """Training loss by step; a step trained twice keeps its last value."""
    return {event["step"]: event["values"]["loss"] for event in events(run, "metrics")}


def at_step(run: Path, step: int) -> None:
    """Wait until a run has done a step."""
    until(lambda: max(losses(run), default=0), lambda done: done >= step)


def process(run: Path, what: str, attempt: int = 1) -> int:
    """Process id that an attempt's file records, once it is there."""
    path = run / "attempts" / str(attempt) / what
    until(path.is_file, bool)
    pid: int = json.loads(path.read_text())["pid"]
    return pid


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
            if (run / "run.json").is_file() and status(run).active:
                kill(Run(run))
