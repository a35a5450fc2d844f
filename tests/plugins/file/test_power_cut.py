"""After a power cut at any moment, every acknowledged artifact is there and none is half there."""

from __future__ import annotations

import random
import shutil

from nexa_file import disk, sharing

from .conftest import FILES, open_store
from .power_cut import Recorder, after_power_cut

STATES = 1500
STEP = "checkpoints/run-1/step-{:08d}"


def record(monkeypatch, root) -> Recorder:
    """Record commits, with shared files, and a collection."""
    monkeypatch.setattr(sharing, "MIN_BYTES", 1000)
    root.mkdir()
    recorder = Recorder(monkeypatch, root)
    store = open_store(root / "artifacts")
    for step in (1, 2, 3, 4):
        staged = root / f"staged-{step}"
        disk.os.mkdir(staged)
        disk.os.mkdir(staged / "trainer")
        for path, content in {**FILES, "step": b"%d" % step}.items():
            write_unsynced(staged / path, content)
        store.commit(staged, STEP.format(step), kind="checkpoint", manifest={"metrics": {"loss": 1.0}})
        recorder.acknowledge(STEP.format(step))
    recorder.removal_begins = recorder.clock
    store.collect([STEP.format(1), STEP.format(2)])
    return recorder


def write_unsynced(path, content):
    """Write a file in two pieces, as a trainer does: nothing is synced."""
    descriptor = disk.os.open(path, disk.os.O_WRONLY | disk.os.O_CREAT | disk.os.O_EXCL)
    for piece in (content[: len(content) // 2], content[len(content) // 2 :]):
        disk.os.write(descriptor, piece)
    disk.os.close(descriptor)


def test_acknowledged_artifacts_survive_a_power_cut(monkeypatch, scratch):
    with monkeypatch.context() as patch:
        recorder = record(patch, scratch / "recorded")
    generator = random.Random(11)
    last = recorder.changes[-1].made_at
    seen = 0
    for number in range(STATES):
        when = number * (last + 1) // STATES
        target = scratch / "after"
        after_power_cut(recorder, when, (0.0, 0.2, 0.5, 0.8, 1.0)[number % 5], generator, target)
        store = open_store(target / "artifacts")
        present = [artifact.name for artifact in store.list()]
        for name in present:
            assert store.verify(name) == [], (when, name)
        removed = {STEP.format(1), STEP.format(2)} if when > recorder.removal_begins else set()
        expected = {name for acknowledged_at, name in recorder.acknowledged if acknowledged_at <= when}
        assert expected - removed <= set(present), when
        store.collect([])
        assert [artifact.name for artifact in store.list()] == present
        seen += len(present)
        shutil.rmtree(target)
    assert seen > STATES


def test_the_model_finds_a_store_that_does_not_sync(monkeypatch, scratch):
    """Without its syncs, the same commits do lose artifacts: the model is not blind."""
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_file", lambda path: None)
        recorder = record(patch, scratch / "recorded")
    generator = random.Random(11)
    last = recorder.changes[-1].made_at
    damaged = 0
    for number in range(100):
        target = scratch / "after"
        after_power_cut(recorder, number * last // 100, 0.5, generator, target)
        store = open_store(target / "artifacts")
        damaged += sum(bool(store.verify(artifact.name)) for artifact in store.list())
        shutil.rmtree(target)
    assert damaged > 10
