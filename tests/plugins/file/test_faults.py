"""Commits and collections that are killed, or whose system calls fail, at every single call."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nexa.errors import ArtifactError
from nexa_file import placing, sharing

from .conftest import FILES, contents, open_store
from .interposer import Failer, Killer, ShortWriter

OLD, NEW = "checkpoints/run-1/step-00000001", "checkpoints/run-1/step-00000002"
SHARED = {"base.safetensors": b"frozen " * 1000}


class Scene:
    """A store with one good artifact, and something to do in it."""

    def __init__(self, stage, scratch: Path, tmp_path: Path) -> None:
        self.root = scratch / "artifacts"
        self.store = open_store(self.root)
        self._stage = stage
        self._elsewhere = tmp_path
        self.staged = stage({**FILES, **SHARED})
        self.store.commit(self.staged, OLD, kind="checkpoint", manifest={})
        self.old = contents(self.root / OLD)

    def prepare(self, scenario: str) -> None:
        """Bring the store to where the scenario starts."""
        match scenario:
            case "move":
                self.staged = self._stage({**FILES, **SHARED, "step": os.urandom(8)})
            case "copy":
                self.staged = self._stage({**FILES, "step": os.urandom(8)}, into=self._elsewhere)
            case "replace damaged":
                self.staged = self._stage({**FILES, "step": b"damaged"})
                self.store.commit(self.staged, NEW, kind="checkpoint", manifest={})
                (self.root / NEW / "step").unlink()
                self.staged = self._stage({**FILES, "step": b"good"})
            case "collect":
                self.store.commit(self._stage(FILES), "datasets/d", kind="dataset", manifest={})
                self.store.pin("datasets/d")
                self.store.pin("datasets/d", pinned=False)

    def act(self, scenario: str) -> None:
        """Do what the scenario is about."""
        if scenario == "collect":
            self.store.collect(["datasets/d"])
        else:
            self.store.commit(self.staged, NEW, kind="checkpoint", manifest={"metrics": {"loss": 1.0}})

    def check(self, scenario: str) -> None:
        """Nothing half done is visible, the good artifact is untouched, and what was left can be cleared."""
        assert contents(self.root / OLD) == self.old
        assert self.store.verify(OLD) == []
        for artifact in self.store.list():
            if scenario != "replace damaged" or artifact.name != NEW:
                assert self.store.verify(artifact.name) == []
        self.store.collect([])
        assert not list((self.root / ".nexa" / "staging").iterdir())
        assert not (self.root / ".nexa" / "trash").exists()

    def reset(self, scenario: str) -> None:
        """Commit what was cut short, as a retry would, and take it away again."""
        if scenario != "collect" and not self.is_new_whole():
            self.store.commit(self._stage({**FILES, "step": b"again"}), NEW, kind="checkpoint", manifest={})
        assert scenario == "collect" or self.store.verify(NEW) == []
        for left in (self.root / NEW, self.root / "datasets", self.root / ".nexa" / "set-aside"):
            if left.exists():
                shutil.rmtree(left)

    def is_new_whole(self) -> bool:
        """Whether the artifact of a commit scenario is there and verifies."""
        return (self.root / NEW).exists() and self.store.verify(NEW) == []


@pytest.fixture
def scene(stage, scratch, tmp_path, monkeypatch):
    # Small files are shared here, so that the calls of sharing are covered too.
    monkeypatch.setattr(sharing, "MIN_BYTES", 5000)
    return Scene(stage, scratch, tmp_path)


def test_killed_at_any_call_leaves_whole_artifacts_only(scene):
    points = 0
    for scenario in ("move", "copy", "replace damaged", "collect"):
        for after in (False, True):
            number, killed = 1, True
            while killed:
                scene.prepare(scenario)
                killed = is_killed(scene, scenario, number, after=after)
                assert killed or scenario == "collect" or scene.is_new_whole()
                scene.check(scenario)
                scene.reset(scenario)
                points += killed
                number += 1
    assert points >= 500


def is_killed(scene: Scene, scenario: str, number: int, *, after: bool) -> bool:
    """Act in a child process that ends at one call; whether it made that many calls."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, number, after=after)
            scene.act(scenario)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_failure_of_any_call_is_an_error_or_harmless(scene, error):
    for scenario in ("move", "copy", "collect"):
        number, failed = 1, True
        while failed:
            scene.prepare(scenario)
            staged = contents(scene.staged) if scene.staged.exists() else None
            failed, refused = fail_once(scene, scenario, number, error)
            if scenario != "collect" and refused:
                assert os.strerror(error) in str(refused)
                assert not (scene.root / NEW).exists()
                assert contents(scene.staged) == staged
            elif scenario != "collect":
                assert scene.is_new_whole()
            scene.check(scenario)
            scene.reset(scenario)
            number += 1


def fail_once(scene: Scene, scenario: str, number: int, error: int) -> tuple[bool, ArtifactError | None]:
    """Act while one call fails: whether it made that many calls, and how the store refused."""
    with pytest.MonkeyPatch.context() as patch:
        failer = Failer(patch, number, error)
        try:
            scene.act(scenario)
        except ArtifactError as refused:
            return failer.failed is not None, refused
        return failer.failed is not None, None


def test_short_writes_are_continued(scene, monkeypatch):
    scene.prepare("copy")
    ShortWriter(monkeypatch)
    scene.act("copy")
    scene.check("copy")
    assert scene.is_new_whole()


def test_interrupted_commit_gives_the_files_back(scene, monkeypatch):
    scene.prepare("move")
    before = contents(scene.staged)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(placing, "seal", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scene.act("move")
    assert contents(scene.staged) == before
    assert not (scene.root / NEW).exists()
    scene.check("move")


@pytest.mark.parametrize("missing", [errno.ENOSYS, errno.EINVAL])
def test_without_an_exclusive_rename_names_stay_unique(scene, monkeypatch, missing):
    def refuse(source, target):
        raise OSError(missing, os.strerror(missing))

    monkeypatch.setattr("nexa_file.disk._renameat2", refuse)
    scene.prepare("move")
    scene.act("move")
    assert scene.is_new_whole()
    kept = contents(scene.root / NEW)
    monkeypatch.setattr("nexa_file.store.FileStore._refuse_taken", lambda self, name: None)
    scene.prepare("move")
    with pytest.raises(ArtifactError, match="exists already"):
        scene.act("move")
    assert contents(scene.root / NEW) == kept


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("can't mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_keeps_the_earlier_artifact(small_disk, stage, monkeypatch):
    store = open_store(small_disk / "artifacts")
    store.commit(stage(), OLD, kind="checkpoint", manifest={})
    kept = contents(small_disk / "artifacts")
    large = {"model.safetensors": bytes(6 << 20)}

    staged = stage(large)
    with pytest.raises(ArtifactError, match="do not fit"):
        store.commit(staged, NEW, kind="checkpoint", manifest={})
    monkeypatch.setattr(placing, "_require_space", lambda folder, needed: None)
    with pytest.raises(ArtifactError, match="No space left"):
        store.commit(staged, NEW, kind="checkpoint", manifest={})
    assert contents(staged) == large

    on_disk = stage({"a": b"x"}, into=small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(8 << 20))
    with pytest.raises(ArtifactError, match="No space left"):
        store.commit(on_disk, NEW, kind="checkpoint", manifest={})
    assert contents(on_disk) == {"a": b"x"}
    assert contents(small_disk / "artifacts") == kept
    assert store.verify(OLD) == []


SAVER = """
import sys, tempfile
from pathlib import Path
from nexa_file.store import FileStore
store = FileStore(); store.open(sys.argv[1]); first = int(sys.argv[2])
while True:
    staged = Path(tempfile.mkdtemp(dir=sys.argv[3]))
    (staged / "model.safetensors").write_bytes(b"%d" % first * 100_000)
    (staged / "state.json").write_text("{}")
    store.commit(staged, f"checkpoints/run-1/step-{first:08d}", kind="checkpoint", manifest={})
    print(first, flush=True)
    first += 1
"""
COLLECTOR = """
import sys
from nexa_file.store import FileStore
store = FileStore(); store.open(sys.argv[1])
while True:
    store.collect([artifact.name for artifact in store.list("checkpoints/run-1")][:-2])
"""


@pytest.mark.parametrize("rounds", [pytest.param(12, id="short"), pytest.param(200, id="long", marks=pytest.mark.soak)])
def test_saving_and_collecting_under_random_kills(scratch, rounds):
    """Saver and collector are killed over and over; what was acknowledged last is always there."""
    root = scratch / "artifacts"
    store = open_store(root)
    step = 1
    for number in range(rounds):
        arguments = [root.as_uri(), str(step), str(scratch)]
        saver = subprocess.Popen([sys.executable, "-c", SAVER, *arguments], stdout=subprocess.PIPE, text=True)
        collector = subprocess.Popen([sys.executable, "-c", COLLECTOR, root.as_uri()])
        assert saver.stdout is not None
        acknowledged = [int(saver.stdout.readline()) for _ in range(3 + number % 5)]
        (collector if number % 3 == 0 else saver).kill()
        acknowledged += [int(saver.stdout.readline()) for _ in range(2 if number % 3 == 0 else 0)]
        saver.kill()
        acknowledged += [int(line) for line in saver.stdout.read().split()]
        collector.send_signal(signal.SIGKILL)
        saver.wait()
        collector.wait()

        names = [artifact.name for artifact in store.list()]
        assert f"checkpoints/run-1/step-{acknowledged[-1]:08d}" in names
        assert all(store.verify(name) == [] for name in names)
        step = int(names[-1].rpartition("-")[2]) + 1
    store.collect([])
    assert not list((root / ".nexa" / "staging").iterdir())
