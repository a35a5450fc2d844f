"""A full disk: the run ends with a clear reason, and its end is on record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nexa.errors import NexaError, UserError, WorkerError
from nexa.events.reader import EventReader
from nexa.events.writer import EventWriter
from nexa.files import read_json
from nexa.runs.state import State


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take all space of a file system but `leave` bytes."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return path


def test_a_record_that_does_not_fit_names_the_disk_and_spoils_no_other(small_disk):
    writer = EventWriter(small_disk / "r" / "events" / "1-0.jsonl")
    writer.write("heartbeat")
    filler = fill(small_disk)
    with pytest.raises(WorkerError, match="No space left on device") as caught:
        writer.write("sample", text="x" * 8192)
    assert "free space" in caught.value.hint
    filler.unlink()
    writer.write("end", state="failed")
    reader = EventReader(writer.path)
    assert [record["type"] for record in reader.poll()] == ["heartbeat", "end"]


@pytest.fixture
def runs_on(runs, small_disk):
    """Runs whose run directories lie on the small disk; artifacts lie elsewhere."""
    from nexa.runs.store import RunStore

    runs.store = RunStore(small_disk / "runs")
    return runs


def test_a_disk_that_fills_ends_the_run_with_its_reason_on_record(runs_on, small_disk):
    run = runs_on.launch(steps=100_000, step_seconds=0.002)
    runs_on.await_status(run, lambda status: (status.step or 0) > 5)
    fill(small_disk)
    status = runs_on.await_end(run)
    assert status.state is State.FAILED
    assert "No space left on device" in status.reason
    assert str(run.path / "events") in status.reason
    assert read_json(run.latest_attempt.path / "exit.json")["exit_code"] == 1
    runs_on.await_no_processes(run)


def test_launching_on_a_full_disk_is_refused_and_leaves_nothing(runs_on, small_disk):
    (small_disk / "runs").mkdir()
    fill(small_disk)
    with pytest.raises(UserError, match="No space left on device"):
        runs_on.make(steps=1)
    assert runs_on.store.list() == []


def test_an_attempt_on_a_full_disk_is_refused_with_the_reason(runs_on, small_disk):
    run = runs_on.make(steps=1)
    run.create_attempt(1, resume_from=None, reason="launched")
    fill(small_disk)
    answer = subprocess.run(
        [sys.executable, "-m", "nexa.supervisor", "--detach", str(run.path), "1"], capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert "can't be written" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_run_folder_is_refused(runs):
    run = runs.make(steps=1)
    run.create_attempt(1, resume_from=None, reason="launched")
    run.latest_attempt.path.chmod(0o500)
    with pytest.raises(NexaError, match="Permission denied"):
        runs.start(run)
