"""A run's life with the real command line: launch, watch, stop, resume, kill, and what survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace, events, make_workspace, until

STEPS = 120
LONG = f"training.max_steps={STEPS}"
SPARSE = "training.save_every_steps=40"


def losses(run: Path) -> dict[int, float]:
    """Training loss by step; a step trained twice keeps its last value."""
    return {event["step"]: event["values"]["loss"] for event in events(run, "metrics")}


def checkpoint_files(workspace: Workspace, run: Path) -> dict[str, str]:
    """SHA-256 of each file of a run's newest checkpoint."""
    folder = sorted((workspace.store / "checkpoints" / run.name).iterdir())[-1]
    manifest = json.loads((folder / "manifest.json").read_text())
    return {path: entry["sha256"] for path, entry in manifest["files"].items()}


def process(run: Path, what: str, attempt: int = 1) -> int:
    """Process id that an attempt's file records, once it is there."""
    path = run / "attempts" / str(attempt) / what
    until(path.is_file, bool)
    pid: int = json.loads(path.read_text())["pid"]
    return pid


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def at_step(run: Path, step: int) -> None:
    """Wait until a run has done a step."""
    until(lambda: max(losses(run), default=0), lambda done: done >= step)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("lifecycle") / "work")


@pytest.fixture(scope="module")
def reference(home: Workspace) -> Path:
    """A run that nothing disturbed."""
    outcome = home.nexa("launch", "tiny.yaml", LONG, SPARSE, "--run-name", "reference", "--json", "--follow")
    assert outcome.exit_code == 0, outcome.out + outcome.err
    assert outcome.json["state"] == "completed"
    return home.runs_dir / outcome.json["run_id"]


class TestUndisturbed:
    """What a completed run leaves, and the commands that read it."""

    def test_events(self, reference: Path) -> None:
        kinds = {event["type"] for event in events(reference)}
        assert {"start", "progress", "metrics", "checkpoint", "end"} <= kinds
        assert sorted(losses(reference)) == list(range(1, STEPS + 1))
        assert losses(reference)[STEPS] < losses(reference)[1]
        assert [event["step"] for event in events(reference, "checkpoint")] == [40, 80, 120]

    def test_run_directory(self, reference: Path) -> None:
        run, plan = (json.loads((reference / name).read_text()) for name in ("run.json", "plan.json"))
        assert run["run_id"] == plan["run_id"] == reference.name
        assert run["recipe_name"] == "tiny"
        assert plan["recipe"]["training"]["max_steps"] == STEPS
        assert plan["lineage"]["dataset"]["uri"].endswith("rows.jsonl")
        assert plan["batch"] == {
            "microbatch_size": 2,
            "accumulation_steps": 2,
            "global_batch_size": 4,
            "world_size": 1,
        }
        assert (reference / "recipe.yaml").is_file()
        assert not list((reference / "checkpoints").iterdir())

    def test_the_written_recipe_launches_again(self, home: Workspace, reference: Path) -> None:
        outcome = home.nexa("launch", str(reference / "recipe.yaml"), "--explain", "--json")
        assert outcome.exit_code == 0, outcome.err
        assert outcome.json["recipe"] == json.loads((reference / "plan.json").read_text())["recipe"]

    def test_checkpoints_verify(self, home: Workspace, reference: Path) -> None:
        names = [event["name"] for event in events(reference, "checkpoint")]
        assert names[-1] == f"checkpoints/{reference.name}/step-{STEPS:08}"
        for name in names:
            assert home.nexa("artifacts", "verify", name).exit_code == 0
        assert not [path for path in home.store.rglob("*") if path.suffix in {".pt", ".bin", ".pkl", ".pth"}]

    def test_lineage(self, home: Workspace, reference: Path) -> None:
        folder = home.store / "checkpoints" / reference.name / f"step-{STEPS:08}"
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["config"]["training"]["max_steps"] == STEPS
        assert manifest["metrics"]["loss"] == pytest.approx(losses(reference)[STEPS])
        assert "nexa-train" in json.dumps(manifest["lineage"])

    def test_commands_that_read(self, home: Workspace, reference: Path) -> None:
        listed = home.nexa("runs", "--json").json
        assert [run["state"] for run in listed if run["run_id"] == reference.name] == ["completed"]
        assert home.status(reference)["step"] == STEPS
        assert home.nexa("logs", reference.name).exit_code == 0
        csv = home.nexa("metrics", reference.name, "--csv").out.splitlines()
        assert len(csv) >= STEPS

    def test_a_damaged_checkpoint_is_found(self, home: Workspace, reference: Path) -> None:
        folder = home.store / "checkpoints" / reference.name / "step-00000040"
        weights = next(path for path in folder.rglob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.chmod(0o644)
        weights.write_bytes(content)
        outcome = home.nexa("artifacts", "verify", f"checkpoints/{reference.name}/step-00000040")
        assert outcome.exit_code == 1
        assert weights.name in outcome.out + outcome.err

    def test_resuming_a_completed_run_is_refused(self, home: Workspace, reference: Path) -> None:
        outcome = home.nexa("resume", reference.name)
        assert outcome.exit_code == 2
        assert "complete" in outcome.err


def assert_equal_runs(home: Workspace, run: Path, reference: Path) -> None:
    """The same losses at the same steps, and the same final weights and trainer state."""
    assert losses(run) == losses(reference)
    own, theirs = checkpoint_files(home, run), checkpoint_files(home, reference)
    weights = [path for path in theirs if path.endswith(".safetensors")]
    assert weights
    assert {path: own[path] for path in weights} == {path: theirs[path] for path in weights}


def test_stop_and_resume_equal_the_undisturbed_run(home: Workspace, reference: Path) -> None:
    run = home.launch("tiny.yaml", LONG, SPARSE)
    at_step(run, 5)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0
    stopped = home.status(run)
    assert stopped["state"] == "stopped"
    assert stopped["step"] < STEPS
    assert home.nexa("resume", run.name).exit_code == 0
    assert home.wait(run)["state"] == "completed"
    assert_equal_runs(home, run, reference)


def test_kill_9_of_the_worker_is_a_failure_that_resumes(home: Workspace, reference: Path) -> None:
    run = home.launch("tiny.yaml", LONG, SPARSE)
    at_step(run, 45)
    os.kill(process(run, "workers/0.json"), signal.SIGKILL)
    status = home.wait(run)
    assert status["state"] == "failed"
    assert "SIGKILL" in status["reason"]
    for event in events(run, "checkpoint"):
        assert home.nexa("artifacts", "verify", event["name"]).exit_code == 0
    assert home.nexa("resume", run.name).exit_code == 0
    assert home.wait(run)["state"] == "completed"
    assert_equal_runs(home, run, reference)


def test_kill_9_of_the_supervisor_is_never_called_running(home: Workspace) -> None:
    run = home.launch("tiny.yaml", "training.max_steps=100000")
    at_step(run, 3)
    worker = process(run, "workers/0.json")
    os.kill(process(run, "supervisor.json"), signal.SIGKILL)
    assert home.status(run)["state"] in {"stopping", "lost"}
    assert home.wait(run)["state"] == "lost"
    until(lambda: gone(worker), bool)
    (checkpoint,) = (json.loads((run / "attempts/1/result.json").read_text())["checkpoint"],)
    assert home.nexa("artifacts", "verify", checkpoint).exit_code == 0


def test_kill_ends_every_process(home: Workspace) -> None:
    run = home.launch("tiny.yaml", "training.max_steps=100000")
    at_step(run, 1)
    processes = [process(run, "workers/0.json"), process(run, "supervisor.json")]
    assert home.nexa("kill", run.name).exit_code == 0
    assert all(gone(pid) for pid in processes)
    assert home.status(run)["state"] == "killed"


def test_ctrl_c_detaches_and_the_run_goes_on(home: Workspace) -> None:
    command = home.popen("launch", "tiny.yaml", "training.max_steps=400", "--run-name", "detached", "--follow")
    (run,) = until(lambda: list(home.runs_dir.glob("*-detached-*")), bool)
    at_step(run, 1)
    os.killpg(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=20)
    assert command.returncode == 130, out + err
    assert run.name in out + err
    assert "Traceback" not in out + err
    before = max(losses(run))
    until(lambda: max(losses(run)), lambda step: step > before)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0


def test_a_run_outlives_its_terminal(home: Workspace) -> None:
    command = home.popen("launch", "tiny.yaml", "training.max_steps=400", "--run-name", "hung-up", "--follow")
    (run,) = until(lambda: list(home.runs_dir.glob("*-hung-up-*")), bool)
    at_step(run, 1)
    os.killpg(command.pid, signal.SIGHUP)
    command.communicate(timeout=20)
    before = max(losses(run))
    until(lambda: max(losses(run)), lambda step: step > before)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0


def test_two_launches_at_the_same_second(home: Workspace) -> None:
    commands = [home.popen("launch", "tiny.yaml", "--run-name", "twin", "--json", "--detach") for _ in range(2)]
    outputs = [command.communicate(timeout=60) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], outputs
    runs = [home.runs_dir / json.loads(out)["run_id"] for out, _ in outputs]
    assert runs[0] != runs[1]
    assert [home.wait(run)["state"] for run in runs] == ["completed", "completed"]


def mount_tmpfs(folder: Path, size: str) -> bool:
    """Mount a small file system; False where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A folder on a file system of two megabytes."""
    folder = tmp_path / "small"
    if not mount_tmpfs(folder, "2m"):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_refused_before_anything_is_written(home: Workspace, small_disk: Path) -> None:
    known = set(home.runs_dir.iterdir())
    outcome = home.nexa("launch", "tiny.yaml", "--checkpoint-dir", str(small_disk), "training.max_steps=100000")
    assert outcome.exit_code == 2
    assert str(small_disk) in outcome.err
    assert "keep_last" in outcome.err
    assert set(home.runs_dir.iterdir()) == known


def test_a_disk_that_fills_while_training_loses_nothing_whole(home: Workspace, small_disk: Path) -> None:
    store = small_disk / "store"
    run = home.launch(
        "tiny.yaml", "training.max_steps=100000", "training.save_every_steps=1000000", f"artifacts.store_uri={store}"
    )
    at_step(run, 1)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass
    home.nexa("stop", run.name)
    status = home.wait(run)
    assert status["state"] == "failed"
    assert "space" in status["reason"]
    assert not list(store.rglob("manifest.json"))
