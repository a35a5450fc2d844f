"""Run directories: identity, finding, exclusivity, damage and folders that can't be written."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest

from nexa.errors import RunError, UserError
from nexa.files import ReservedFile, read_json, write_json, write_json_once
from nexa.runs.store import Run, RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def make(store: RunStore, name: str = "try") -> Run:
    return store.create(name, document={}, recipe_yaml="method: sft\n", plan={"recipe": {}})


def test_an_id_sorts_by_time_and_holds_the_name(store):
    run = make(store, "my.run-1")
    assert re.fullmatch(r"\d{8}-\d{6}-my\.run-1-[a-z2-7]{6}", run.run_id)
    assert run.document["run_id"] == run.plan["run_id"] == run.run_id
    assert run.name == "my.run-1"
    assert run.attempts == []


def test_runs_are_found_by_id_prefix_name_and_latest(store):
    first, second = make(store, "alpha"), make(store, "beta")
    runs = sorted([first.run_id, second.run_id], reverse=True)
    assert [run.run_id for run in store.list()] == runs
    assert store.open("latest").run_id == runs[0]
    assert store.open(first.run_id).run_id == first.run_id
    assert store.open(first.run_id[:-2]).run_id == first.run_id
    assert store.open("beta").run_id == second.run_id
    with pytest.raises(RunError, match="is the start of 2 runs"):
        store.open("20")
    with pytest.raises(RunError, match="there is no run 'gamma'") as caught:
        store.open("gamma")
    assert "beta" in caught.value.hint
    with pytest.raises(RunError):
        store.open("")


def test_a_name_finds_its_newest_run(store, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    make(store, "same")
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000001")
    newest = make(store, "same")
    assert store.open("same").run_id == newest.run_id


def test_no_runs_yet_says_how_to_start_one(store):
    assert store.list() == []
    with pytest.raises(RunError, match="there are no runs") as caught:
        store.open("latest")
    assert "nexa launch" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-dash", "a\nb", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(store, name):
    with pytest.raises(UserError, match="can't be a run's name"):
        store.reserve(name)


def test_a_reserved_run_is_not_listed(store):
    store.reserve("half")
    assert store.list() == []


def test_a_runs_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="runs") as caught:
        make(RunStore(tmp_path / "runs"))
    assert "NEXA_RUNS_DIR" in caught.value.hint
    with pytest.raises(UserError):
        make(RunStore(tmp_path / "runs" / "below"))


def test_an_unwritable_runs_folder_is_named():
    with pytest.raises(UserError, match="/proc/1/nothing"):
        make(RunStore(Path("/proc/1/nothing")))


def test_damaged_and_foreign_documents_are_told(store):
    run = make(store)
    (run.path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"no readable run\.json"):
        _ = Run(run.path).document
    write_json(run.path / "run.json", {"schema": 9, "nexa_version": "7.0"})
    with pytest.raises(RunError, match="format 9") as caught:
        _ = Run(run.path).document
    assert "7.0" in caught.value.hint


def _claim(arguments: tuple[str, int]) -> bool:
    path, number = arguments
    try:
        Run(Path(path)).create_attempt(number, resume_from=None, reason="race")
    except RunError:
        return False
    return True


def test_of_many_processes_one_begins_an_attempt(store):
    run = make(store)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for number in (1, 2, 3):
            assert sum(pool.map(_claim, [(str(run.path), number)] * 12)) == 1
    assert [attempt.number for attempt in run.attempts] == [1, 2, 3]
    assert all(attempt.read("attempt") for attempt in run.attempts)
    assert sorted(path.name for path in (run.path / "attempts").iterdir()) == ["1", "2", "3"]


def test_launches_in_the_same_second_get_runs_of_their_own(store, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    assert len({make(store).run_id for _ in range(50)}) == 50


def test_json_files_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    assert write_json_once(path, {"a": 1})
    assert not write_json_once(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    monkeypatch.setattr("os.link", _no_links)
    assert not write_json_once(path, {"a": 3})
    assert write_json_once(tmp_path / "b.json", {"b": 1})
    assert read_json(tmp_path / "b.json") == {"b": 1}
    with pytest.raises(OSError, match="No such file"):
        write_json(tmp_path / "missing" / "c.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    assert read_json(tmp_path / "none.json") is None
    path.write_text("[1]")
    assert read_json(path) is None


def _no_links(*_: object) -> None:
    raise PermissionError("no hard links here")


def test_a_reserved_file_is_written_once(tmp_path):
    reserves = [ReservedFile(tmp_path / "end.json"), ReservedFile(tmp_path / "end.json")]
    assert [reserve.write_once({"by": index}) for index, reserve in enumerate(reserves)] == [True, False]
    assert read_json(tmp_path / "end.json") == {"by": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["end.json"]
