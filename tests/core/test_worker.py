"""The worker protocol in this process: observers, stop requests, checkpoints, logs, plans."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from nexa.errors import PluginError, UserError, WorkerError
from nexa.events.reader import EventReader
from nexa.events.writer import EventWriter
from nexa.files import write_json
from nexa.logs import configure_logging, show_line
from nexa.worker import observers as observers_module
from nexa.worker.checkpoints import StoreCommitter, load_store
from nexa.worker.command import worker_argv, worker_environment
from nexa.worker.environment import environment_snapshot
from nexa.worker.identity import Liveness, ProcessIdentity
from nexa.worker.loading import create
from nexa.worker.observers import Observers
from nexa.worker.place import WorkerPlace
from nexa.worker.retention import Retention
from nexa.worker.session import Heartbeat
from nexa.worker.stop import StopRequests


class Collector:
    """An observer that keeps what it is given."""

    made: list[Collector] = []

    def __init__(self) -> None:
        self.records: list[dict] = []
        self.closed = False
        Collector.made.append(self)

    def open(self, run_id, run_dir, recipe, options) -> None:
        self.options = options
        if options.get("fail_open"):
            raise OSError("no server")

    def event(self, record) -> None:
        if self.options.get("fail_event"):
            raise ValueError("bad record")
        if self.options.get("hang"):
            time.sleep(3600)
        self.records.append(record)

    def close(self) -> None:
        self.closed = True
        if self.options.get("fail_close"):
            raise ValueError("bad close")


@pytest.fixture
def observe(tmp_path, monkeypatch):
    """Runs observers with the given options over 50 records; returns them and the warnings."""
    monkeypatch.setitem(sys.modules, "observers_under_test", SimpleNamespace(Collector=Collector))
    monkeypatch.setattr(observers_module, "_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(Collector, "made", [])

    def run(*options: dict, factory: str = "observers_under_test:Collector"):
        warnings: list[str] = []
        entries = [{"name": f"o{i}", "factory": factory, "options": option} for i, option in enumerate(options)]
        watching = Observers(entries, run_id="r", run_dir=tmp_path, recipe={}, warn=warnings.append)
        watching.start()
        for number in range(50):
            watching.put({"type": "x", "number": number})
        watching.finish()
        return Collector.made, warnings

    return run


def test_observers_receive_every_record_in_order(observe):
    (first, second), warnings = observe({}, {"a": 1})
    assert [record["number"] for record in first.records] == list(range(50))
    assert second.options == {"a": 1}
    assert first.closed
    assert second.closed
    assert warnings == []


@pytest.mark.parametrize("how", ["fail_open", "fail_event", "fail_close", "hang"])
def test_a_bad_observer_is_left_out_with_one_warning(observe, how):
    made, warnings = observe({how: True}, {})
    assert len(warnings) == 1
    assert "o0" in warnings[0]
    good = next(one for one in made if not one.options)
    assert len(good.records) == 50


def test_an_observer_that_does_not_exist_is_left_out(observe):
    _, warnings = observe({}, factory="no_such_module:X")
    assert "no_such_module" in warnings[0]


def test_a_stop_file_and_only_its_first_reason_counts(tmp_path):
    clock = SimpleNamespace(now=100.0)
    stop = StopRequests(tmp_path, clock=lambda: clock.now)
    assert stop() is None
    write_json(tmp_path / "stop", {"reason": "lunch"})
    assert stop() is None, "the disk is asked five times a second, not at every step"
    clock.now += 0.21
    assert stop() == "lunch"
    write_json(tmp_path / "stop", {"reason": "other"})
    clock.now += 1
    assert stop() == "lunch"


def test_polling_for_a_stop_costs_microseconds(tmp_path):
    stop = StopRequests(tmp_path)
    stop()
    begin = time.perf_counter()
    for _ in range(1000):
        stop()
    assert time.perf_counter() - begin < 0.1


def test_a_vanished_supervisor_is_a_reason_to_stop(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_json(tmp_path / "supervisor.json", ProcessIdentity.of(child.pid).document())
    clock = SimpleNamespace(now=100.0)
    stop = StopRequests(tmp_path, clock=lambda: clock.now)
    assert stop() is None
    child.kill()
    child.wait()
    clock.now += 2
    assert "supervisor" in stop()


def test_a_zombie_counts_as_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity.liveness() is Liveness.ALIVE
    assert ProcessIdentity.from_document(identity.document()) == identity
    child.kill()
    deadline = time.monotonic() + 5
    while identity.liveness() is Liveness.ALIVE:
        assert time.monotonic() < deadline
    assert identity.liveness() is Liveness.GONE
    child.wait()
    assert ProcessIdentity.from_document({"pid": 1}) is None


def test_a_heartbeat_that_can_not_write_ends_the_run(tmp_path):
    writer = EventWriter(tmp_path / "1-0.jsonl")
    stop = StopRequests(tmp_path)
    beat = Heartbeat(writer, stop.fail, seconds=0.01)
    beat.start()
    time.sleep(0.1)
    assert len(EventReader(writer.path).poll()) >= 2
    writer.close()
    beat.join(5)
    with pytest.raises(WorkerError, match="closed"):
        stop()
    beat.finish()


@pytest.fixture
def committer(tmp_path):
    (tmp_path / "artifacts").mkdir()
    store = load_store({"factory": "nexa_file.store:FileStore", "uri": (tmp_path / "artifacts").as_uri()})
    writer = EventWriter(tmp_path / "events.jsonl")

    def make(keep_last=None) -> StoreCommitter:
        fields = {"config": {}, "lineage": {"dataset": {"uri": "u"}, "code": None}}
        return StoreCommitter(
            store,
            run_id="r",
            run_dir=tmp_path,
            events=writer,
            fields=fields,
            labels={"a": "b"},
            retention=Retention(keep_last=keep_last),
        )

    make.store = store
    make.records = lambda: EventReader(tmp_path / "events.jsonl").poll()
    return make


def save(committer: StoreCommitter, step: int, text: str = "x") -> str:
    folder = committer.stage(step)
    assert list(folder.iterdir()) == []
    (folder / "data").write_text(text)
    return committer.commit(
        step, folder, metrics={"loss": 1.5}, lineage={"dataset": {"hash": "h"}}, inputs=["sha256:i"]
    )


def test_a_checkpoint_carries_lineage_metrics_and_labels(committer):
    name = save(committer(), 7)
    assert name == "checkpoints/r/step-00000007"
    manifest = committer.store.manifest(name)
    assert manifest["lineage"] == {"dataset": {"uri": "u", "hash": "h"}, "code": None}
    assert (manifest["step"], manifest["metrics"], manifest["labels"]) == (7, {"loss": 1.5}, {"a": "b"})
    assert manifest["inputs"] == ["sha256:i"]
    (record,) = committer.records()
    assert (record["type"], record["name"], record["hash"]) == ("checkpoint", name, manifest["hash"])


def test_a_step_saved_by_an_earlier_attempt_stays_as_it_is(committer):
    save(committer(), 7, "first")
    again = committer()
    assert save(again, 7, "second") == save(again, 7, "third") == again.last
    assert (committer.store.fetch(again.last) / "data").read_text() == "first"
    assert [record["type"] for record in committer.records()] == ["checkpoint", "message"]


def test_only_the_newest_checkpoints_are_kept(committer):
    limited = committer(keep_last=2)
    for step in range(1, 6):
        save(limited, step, str(step))
    assert [item.name[-1] for item in committer.store.list("checkpoints/r")] == ["4", "5"]


def test_staging_clears_what_a_killed_attempt_left(committer):
    folder = committer().stage(3)
    (folder / "half").write_text("")
    assert list(committer().stage(3).iterdir()) == []


@pytest.mark.parametrize("with_structlog", [True, False])
def test_log_lines_are_json_with_run_and_rank_and_without_secrets(monkeypatch, with_structlog):
    if not with_structlog:
        monkeypatch.setitem(sys.modules, "structlog", None)
    monkeypatch.setenv("CANARY_TOKEN", "canary-0123456789")
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    try:
        configure_logging(stream, run_id="r", attempt=2, rank=3)
        logging.getLogger("library").warning("token %s", "canary-0123456789")
        try:
            raise ValueError("with canary-0123456789")
        except ValueError:
            logging.getLogger("library").exception("failed")
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
    assert "canary" not in stream.getvalue()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {key: first[key] for key in ("level", "event", "logger", "run", "attempt", "rank")} == {
        "level": "warning",
        "event": "token [redacted]",
        "logger": "library",
        "run": "r",
        "attempt": 2,
        "rank": 3,
    }
    assert abs(first["ts"] - time.time()) < 60
    assert "ValueError" in second["exception"]
    shown = show_line(stream.getvalue().splitlines()[1])
    assert "error" in shown
    assert "Traceback" in shown


def test_log_lines_are_shown_harmless():
    assert show_line('{"ts":1,"level":"info","event":"\\u001b[2J","x":1}').endswith("info    ␛[2J  x=1")
    assert show_line("10%\r50%\r100% \x1b[A") == "100% ␛[A"
    assert show_line('{"ts": broken') == '{"ts": broken'
    assert show_line('{"ts":"x","level":1}') == '{"ts":"x","level":1}'


def test_the_command_of_one_and_several_workers(tmp_path):
    run_dir = tmp_path / "run"
    launch = {"python": "py", "processes_per_node": 1}
    assert worker_argv(launch, run_dir, 2) == ["py", "-m", "nexa.worker", str(run_dir), "2"]
    several = worker_argv({**launch, "processes_per_node": 4}, run_dir, 2)
    assert several[:3] == ["py", "-m", "torch.distributed.run"]
    assert {"--nproc-per-node=4", "--nnodes=1", "--max-restarts=0", "--rdzv-endpoint=127.0.0.1:0"} <= set(several)
    nodes = worker_argv(launch, run_dir, 2, num_nodes=3, rendezvous="first:29500")
    assert {"--nnodes=3", "--rdzv-endpoint=first:29500", "--rdzv-id=run-2"} <= set(nodes)


def test_ranks_of_an_outer_torchrun_do_not_reach_the_workers(tmp_path):
    base = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "x",
        "TORCHELASTIC_RUN_ID": "y",
        "PATH": "p",
    }
    made = worker_environment(base, {"env": {"OMP_NUM_THREADS": "2"}}, tmp_path, 1)
    assert not [name for name in base if name != "PATH" and name in made]
    assert (made["PATH"], made["OMP_NUM_THREADS"], made["NEXA_ATTEMPT"]) == ("p", "2", "1")


def test_the_environment_is_recorded_without_secrets():
    snapshot = environment_snapshot({"HF_TOKEN": "hf_secretsecret", "OMP_NUM_THREADS": "2", "EDITOR": "vi"})
    assert snapshot["variables"] == {"HF_TOKEN": "[redacted]", "OMP_NUM_THREADS": "2"}
    assert snapshot["packages"]["msgspec"]
    assert snapshot["cpus"] >= 1
    json.dumps(snapshot)


@pytest.mark.parametrize("factory", ["no_such_module:X", "json:no_such", "json"])
def test_a_factory_that_is_not_there_is_a_plugin_error(factory):
    with pytest.raises(PluginError, match="can't be loaded"):
        create(factory)


@pytest.mark.parametrize("argv", [[], ["x"], ["x", "y"], ["/nowhere", "1"], ["a", "1", "b"]])
def test_a_worker_started_by_hand_says_how_runs_start(argv):
    with pytest.raises(UserError, match=r"worker is started|no attempt"):
        WorkerPlace.from_command(argv, {})
    answer = subprocess.run([sys.executable, "-m", "nexa.worker", *argv], capture_output=True, text=True)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_the_worker_side_needs_the_standard_library_only():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("nexa", "nexa_file"):
            raise ImportError(f"{name} is not in the standard library")
sys.meta_path.insert(0, Block())
import nexa.worker.__main__, nexa.supervisor, nexa_file.store, nexa.backend, nexa.observer
print("ok")
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert answer.stdout == "ok\n", answer.stderr


def test_a_slow_observer_is_left_out_instead_of_filling_memory(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "observers_under_test", SimpleNamespace(Collector=Collector))
    monkeypatch.setattr(observers_module, "_QUEUE_RECORDS", 5)
    warned = threading.Event()
    entry = {"name": "slow", "factory": "observers_under_test:Collector", "options": {"hang": True}}
    thread = observers_module.ObserverThread(entry, ("r", tmp_path, {}), lambda text: warned.set())
    thread.start()
    for _ in range(20):
        thread.put({"type": "x"})
    assert warned.is_set()
