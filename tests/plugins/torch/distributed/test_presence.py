"""Processes that do not come, die, fail or fall silent are named, and nobody waits for ever."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from starting import Processes, start


def run(behaviour: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, timeout: float, **options: Any) -> Processes:
    monkeypatch.setenv("TIMEOUT", str(timeout))
    return start("presence_worker.py", behaviour, str(folder), **options)


def ending(folder: Path, processes: Processes, rank: int = 0) -> dict[str, str]:
    """What a rank ended with; the others are ended, too."""
    out, _ = processes.ranks[rank].communicate(timeout=120)
    for process in processes.ranks:
        process.kill()
        process.wait()
    assert (folder / f"{rank}.json").exists(), out[-3000:]
    ended: dict[str, str] = json.loads((folder / f"{rank}.json").read_text())
    return ended


def test_who_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = run("not_come", tmp_path, monkeypatch, timeout=3, world_size=3, ranks=[0, 2])
    ended = ending(tmp_path, processes)
    assert "rank 1 of 3 did not come" in ended["message"]
    assert "rank 0 (host " in ended["message"]
    assert "rank 2 (host " in ended["message"]
    assert "distributed.timeout_seconds" in ended["hint"]


@pytest.mark.parametrize("behaviour", ["die", pytest.param("die_while_preparing", marks=pytest.mark.soak)])
def test_who_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    processes = run(behaviour, tmp_path, monkeypatch, timeout=120)
    processes.ranks[1].wait()
    ended = ending(tmp_path, processes)
    assert ended["error"] == "WorkerError"
    assert ended["message"].startswith("rank 1 (host ")
    assert f"process {processes.ranks[1].pid}) ended without a word" in ended["message"]


def test_who_falls_silent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = run("fall_silent", tmp_path, monkeypatch, timeout=12)
    ended = ending(tmp_path, processes)
    assert "rank 1 (host " in ended["message"]
    assert "fell silent; the others waited 12 s" in ended["message"]


def test_an_error_of_one_rank_is_the_error_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = run("fail", tmp_path, monkeypatch, timeout=120)
    processes.ranks[1].communicate(timeout=120)
    assert ending(tmp_path, processes) == {
        "error": "UserError",
        "message": "rows.jsonl:7: not JSON",
        "hint": "mend it",
    }


@pytest.mark.soak
def test_waiting_for_data_has_no_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = run("be_slow", tmp_path, monkeypatch, timeout=15)
    assert [code for code, _ in processes.wait()] == [0, 0]
    assert json.loads((tmp_path / "0.json").read_text())["error"] is None


@pytest.mark.soak
def test_the_wrong_number_of_processes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMEOUT", "60")
    first = start("presence_worker.py", "not_come", str(tmp_path), world_size=2, ranks=[0])
    second = start("presence_worker.py", "not_come", str(tmp_path), world_size=3, ranks=[1], port=first.port)
    ended = ending(tmp_path, first)
    second.ranks[0].send_signal(signal.SIGKILL)
    assert "expects 3 processes" in ended["message"]
    assert "expects 2" in ended["message"]
    second.wait()
