"""Prepared folders: made once, whole or not at all; locks whose owner is gone are taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nexa import locks
from nexa.cli.main import main
from nexa.errors import DataError, UserError
from nexa.locks import owned_lock
from nexa.prepared import PreparedCache, damages, require_whole

HOLDER = """
import sys, time
from pathlib import Path
from nexa.locks import owned_lock
with owned_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def _fill(folder: Path) -> dict[str, object]:
    (folder / "data.bin").write_bytes(b"tokens")
    return {"source": "rows.jsonl", "documents": 3, "tokens": 6}


@pytest.fixture
def cache(tmp_path: Path) -> PreparedCache:
    return PreparedCache(tmp_path)


def test_built_once_and_found_again(cache: PreparedCache) -> None:
    calls = []
    entry = cache.build("a1", lambda folder: calls.append(1) or _fill(folder))
    again = cache.build("a1", lambda folder: calls.append(2) or _fill(folder))
    assert calls == [1]
    assert entry.path == again.path
    assert entry.index["files"]["data.bin"]["bytes"] == 6
    assert [found.key for found in cache.list()] == ["a1"]
    assert list(damages(entry)) == []


def test_what_fill_left_is_there_at_the_next_try(cache: PreparedCache) -> None:
    def fails(folder: Path) -> dict[str, object]:
        (folder / "part").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build("a1", fails)
    assert cache.get("a1") is None
    seen = []
    cache.build("a1", lambda folder: seen.extend(path.name for path in folder.iterdir()) or _fill(folder))
    assert seen == ["part"]


def test_threads_at_once_build_once(cache: PreparedCache) -> None:
    calls: list[int] = []
    threads = [
        threading.Thread(target=cache.build, args=("a1", lambda folder: calls.append(1) or _fill(folder)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waits: list[str] = []

        def kill(who: str) -> None:
            waits.append(who)
            holder.kill()

        with owned_lock(lock, on_wait=kill):
            assert lock.is_dir()
        assert f"process {holder.pid} on " in waits[0]
    assert list(tmp_path.iterdir()) == []


def test_silent_lock_of_another_machine_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE_SECONDS", 0.3)
    lock = tmp_path / "lock"
    lock.mkdir()
    owner = {"pid": 1, "start_time": "1", "boot_id": "other", "host": "elsewhere", "namespace": "x"}
    (lock / "owner-1.json").write_text(json.dumps(owner))
    beats = 0

    def beat(who: str) -> None:
        nonlocal beats
        assert who == "process 1 on elsewhere"
        beats += 1
        if beats < 6:
            os.utime(lock / "owner-1.json", (beats, beats))

    with owned_lock(lock, on_wait=beat):
        assert beats >= 6


def test_lock_whose_taker_over_died_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE_SECONDS", 0.1)
    lock = tmp_path / "lock"
    lock.mkdir()
    (lock / "dead").touch()
    with owned_lock(lock):
        assert not (lock / "dead").exists()


class _Room:
    """Counts how many threads are inside at once."""

    def __init__(self, lock: Path) -> None:
        self.most = 0
        self._lock, self._guard, self._inside = lock, threading.Lock(), 0

    def visit(self) -> None:
        with owned_lock(self._lock):
            with self._guard:
                self._inside += 1
                self.most = max(self.most, self._inside)
            time.sleep(0.001)
            with self._guard:
                self._inside -= 1


def test_many_take_over_one_dead_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    for _ in range(20):
        lock.mkdir()
        dead = {**locks.ProcessIdentity.current().document(), "pid": 2**22 - 1}
        (lock / "owner-0.json").write_text(json.dumps(dead))
        room = _Room(lock)
        threads = [threading.Thread(target=room.visit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert room.most == 1
        assert not lock.exists()


def test_unwritable_cache_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "prepared").touch()
    with pytest.raises(UserError, match=r"(?s)can't be written to .*prepared.*data\.local_cache_root"):
        PreparedCache(tmp_path).build("a1", _fill)


def test_commands_list_verify_and_remove(
    cache: PreparedCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--cache", str(tmp_path)]
    assert main(["data", "list", *where]) == 0
    assert "no prepared data" in capsys.readouterr().err
    one, other = cache.build("aa11", _fill), cache.build("bb22", _fill)
    assert main(["data", "list", "--json", *where]) == 0
    assert {entry["key"] for entry in json.loads(capsys.readouterr().out)} == {"aa11", "bb22"}
    assert main(["data", "list", *where]) == 0
    assert "rows.jsonl" in capsys.readouterr().out
    assert main(["data", "verify", *where]) == 0
    (other.path / "data.bin").write_bytes(b"tokenz")
    with pytest.raises(DataError, match=r"(?s)data\.bin.*nexa data remove bb22 --cache"):
        require_whole(other)
    assert main(["data", "verify", "bb", *where]) == 1
    assert "data.bin" in capsys.readouterr().out
    assert main(["data", "remove", *where]) == 2
    assert main(["data", "remove", "cc", *where]) == 2
    assert main(["data", "remove", "--unused-days", "1", *where]) == 0
    assert len(cache.list()) == 2
    assert main(["data", "remove", "bb", *where]) == 0
    assert [entry.key for entry in cache.list()] == ["aa11"]
    os.utime(one.path / "index.json", (0, 0))
    assert main(["data", "remove", "--unused-days", "1", *where]) == 0
    assert cache.list() == []
