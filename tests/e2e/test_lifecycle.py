"""What a run survives, with the real command line and the third-party backend nexa-echo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import Workspace, at_step, end_all, losses, make_workspace, process, status, until, wait


class Home(Workspace):
    """A workspace with nexa-echo installed."""

    def environment(self, **variables: str) -> dict[str, str]:
        """The workspace's variables, and where nexa-echo is."""
        return super().environment(**{**self.echo_variables(), **variables})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(make_workspace(tmp_path_factory.mktemp("lifecycle") / "work").folder)
    made.install_echo()
    yield made
    end_all(made)


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def goes_on(run: Path) -> None:
    """Wait until a run does further steps."""
    before = max(losses(run))
    until(lambda: max(losses(run)), lambda step: step > before)


def test_kill_9_of_the_supervisor_is_never_called_running(home: Home) -> None:
    run = home.launch("echo.yaml")
    at_step(run, 3)
    worker = process(run, "workers/0.json")
    supervisor = process(run, "supervisor.json")
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: gone(supervisor), bool, timeout=5)
    assert status(run).state in {"stopping", "lost"}
    assert wait(run).state == "lost"
    until(lambda: gone(worker), bool)
    checkpoint = json.loads((run / "attempts/1/result.json").read_text())["checkpoint"]
    assert home.nexa("artifacts", "verify", checkpoint).exit_code == 0


def test_kill_ends_every_process(home: Home) -> None:
    run = home.launch("echo.yaml")
    at_step(run, 1)
    processes = [process(run, "workers/0.json"), process(run, "supervisor.json")]
    assert home.nexa("kill", run.name).exit_code == 0
    until(lambda: all(gone(pid) for pid in processes), bool, timeout=5)
    assert wait(run).state == "killed"
    again = home.nexa("kill", run.name)
    assert again.exit_code == 2
    assert "not running" in again.err


def test_ctrl_c_detaches_and_the_run_goes_on(home: Home) -> None:
    command = home.popen("launch", "echo.yaml", "--run-name", "detached", "--follow")
    (run,) = until(lambda: list(home.runs_dir.glob("*-detached-*/run.json")), bool)
    at_step(run.parent, 1)
    os.killpg(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130, out + err
    assert f"nexa stop {run.parent.name}" in out + err
    assert "Traceback" not in out + err
    goes_on(run.parent)
    assert home.nexa("stop", "detached", "--wait").exit_code == 0
    assert status(run.parent).state == "stopped"


def test_a_run_outlives_its_terminal(home: Home) -> None:
    command = home.popen("launch", "echo.yaml", "--run-name", "hung-up", "--follow")
    (run,) = until(lambda: list(home.runs_dir.glob("*-hung-up-*/run.json")), bool)
    at_step(run.parent, 1)
    os.killpg(command.pid, signal.SIGHUP)
    command.communicate(timeout=60)
    goes_on(run.parent)
    assert home.nexa("stop", "hung-up", "--wait").exit_code == 0


def test_launches_at_the_same_second(home: Home) -> None:
    arguments = ("launch", "echo.yaml", "training.max_steps=3", "--run-name", "twin", "--json", "--detach")
    commands = [home.popen(*arguments) for _ in range(4)]
    outputs = [command.communicate(timeout=60) for command in commands]
    assert [command.returncode for command in commands] == [0] * 4, outputs
    runs = [home.runs_dir / json.loads(out)["run_id"] for out, _ in outputs]
    assert len(set(runs)) == 4
    assert {wait(run).state for run in runs} == {"completed"}


def test_two_resumes_at_the_same_moment(home: Home) -> None:
    run = home.launch("echo.yaml")
    at_step(run, 1)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0
    commands = [home.popen("resume", run.name, "--detach") for _ in range(2)]
    outputs = [command.communicate(timeout=60) for command in commands]
    assert sorted(command.returncode for command in commands) == [0, 2], outputs
    assert [attempt.name for attempt in sorted((run / "attempts").iterdir())] == ["1", "2"]
    assert home.nexa("kill", run.name).exit_code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until the file system is full."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass


def test_a_disk_too_small_is_refused_before_anything_is_written(home: Home, small_disk: Path) -> None:
    known = set(home.runs_dir.glob("*"))
    fill(small_disk)
    outcome = home.nexa("launch", "echo.yaml", "--checkpoint-dir", str(small_disk / "store"))
    assert outcome.exit_code == 2
    assert "not enough disk" in outcome.err
    assert str(small_disk) in outcome.err
    assert set(home.runs_dir.glob("*")) == known


def test_a_disk_that_fills_while_training_leaves_no_artifact(home: Home, small_disk: Path) -> None:
    run = home.launch("echo.yaml", "--checkpoint-dir", str(small_disk / "store"))
    at_step(run, 1)
    fill(small_disk)
    assert home.nexa("stop", run.name).exit_code == 0
    ended = wait(run)
    assert ended.state == "failed"
    assert "do not fit" in ended.reason
    assert not list(small_disk.rglob("manifest.json"))
    (small_disk / "filler").unlink()
    assert home.nexa("resume", run.name, "--detach").exit_code == 0
    at_step(run, max(losses(run)) + 1)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0
    assert len(list(small_disk.rglob("manifest.json"))) == 1


def test_a_run_folder_on_a_full_disk(home: Home, small_disk: Path) -> None:
    fill(small_disk)
    outcome = home.nexa("launch", "echo.yaml", NEXA_RUNS_DIR=str(small_disk / "runs"))
    assert outcome.exit_code == 2
    assert str(small_disk) in outcome.err
    assert "Traceback" not in outcome.err
    runs = small_disk / "runs"
    assert not runs.exists() or not list(runs.iterdir())
