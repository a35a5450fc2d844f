"""A run of the PyTorch backend with the real command line: what it leaves, and that it resumes exactly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from workspace import Workspace, at_step, events, losses, make_workspace, process, wait

STEPS = 300
LONG = (f"training.max_steps={STEPS}", "training.save_every_steps=100")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("torch") / "work")


@pytest.fixture(scope="module")
def reference(home: Workspace) -> Path:
    """A run that nothing disturbed."""
    outcome = home.nexa("launch", "tiny.yaml", *LONG, "--run-name", "reference", "--json", "--follow")
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
        assert [event["step"] for event in events(reference, "checkpoint")] == [100, 200, 300]

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
        assert home.nexa("show", reference.name, "--json").json["step"] == STEPS
        assert home.nexa("logs", reference.name).exit_code == 0
        csv = home.nexa("metrics", reference.name, "--csv").out.splitlines()
        assert len(csv) >= STEPS

    def test_a_damaged_checkpoint_is_found(self, home: Workspace, reference: Path) -> None:
        folder = home.store / "checkpoints" / reference.name / "step-00000100"
        weights = next(path for path in folder.rglob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.chmod(0o644)
        weights.write_bytes(content)
        outcome = home.nexa("artifacts", "verify", f"checkpoints/{reference.name}/step-00000100")
        assert outcome.exit_code == 1
        assert weights.name in outcome.out + outcome.err

    def test_resuming_a_completed_run_is_refused(self, home: Workspace, reference: Path) -> None:
        outcome = home.nexa("resume", reference.name)
        assert outcome.exit_code == 2
        assert "complete" in outcome.err


def weights(workspace: Workspace, run: Path) -> dict[str, str]:
    """SHA-256 of each tensor file in a run's newest checkpoint, the trainer's own included."""
    folder = sorted((workspace.store / "checkpoints" / run.name).iterdir())[-1]
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return {path: entry["sha256"] for path, entry in files.items() if path.endswith(".safetensors")}


def test_a_run_that_is_killed_and_stopped_ends_like_an_undisturbed_one(home: Workspace, reference: Path) -> None:
    run = home.launch("tiny.yaml", *LONG)
    at_step(run, 105)
    os.kill(process(run, "workers/0.json"), signal.SIGKILL)
    killed = wait(run)
    assert killed.state == "failed"
    assert "SIGKILL" in killed.reason
    (checkpoint,) = events(run, "checkpoint")
    assert home.nexa("artifacts", "verify", checkpoint["name"]).exit_code == 0

    assert home.nexa("resume", run.name).exit_code == 0
    at_step(run, 115)
    assert home.nexa("stop", run.name, "--wait").exit_code == 0
    stopped = wait(run)
    assert stopped.state == "stopped"
    assert stopped.step is not None
    assert 115 <= stopped.step < STEPS

    assert home.nexa("resume", run.name).exit_code == 0
    assert wait(run).state == "completed"
    assert losses(run) == losses(reference)
    assert len(weights(home, run)) >= 2
    assert weights(home, run) == weights(home, reference)
