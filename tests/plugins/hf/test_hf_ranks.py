"""Two real worker processes over gloo: with a shard of the model each, and with copies, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from hf_running import hashes
from running import Run as LocalRun
from safetensors.torch import load_file

from nexa.files import read_json
from nexa.recipe.schema import Recipe
from nexa.runs.store import Run
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import make_run, open_store, run_attempt, start_worker
from nexa_hf.run import run_training

LONG_WAIT_S = 240.0
CLOSE = 5e-6
"""Largest relative difference of losses: sums of fp32 numbers in another order."""


def recipe(folder: Path, overrides: Mapping[str, Any]) -> Recipe:
    """Six steps of four rows, a checkpoint every two."""
    return tiny_recipe(folder, {"backend": "hf", "training.max_steps": 6, "data.packing": False, **overrides})


def kill_after(run: Run, step: int) -> None:
    """Start an attempt and kill all of its processes, as `kill -9` does, once the checkpoint of `step` is committed."""
    worker = start_worker(run, run.create_attempt(1, resume_from=None, reason="test"))
    deadline = time.monotonic() + LONG_WAIT_S
    while f'"checkpoint","step":{step}' not in _events(run) and worker.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.02)
    assert worker.poll() is None, "the run was over before it could be killed"
    ranks = [read_json(file) for file in (run.attempts[-1].path / "workers").glob("*.json")]
    assert len(ranks) == 2
    for process in ranks:
        assert process is not None
        os.kill(int(process["pid"]), signal.SIGKILL)
    worker.kill()
    worker.wait(LONG_WAIT_S)


def _events(run: Run) -> str:
    file = run.attempts[-1].events_path
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return " ".join(f'"{event["type"]}","step":{event.get("step")}' for event in found)


def test_two_processes_with_a_shard_each_train_as_one(tmp_path: Path) -> None:
    """Through accelerate's FSDP; losses, what the model writes, and the checkpoint, which loads as any other."""
    sections = {"samples.prompts": ["Name a colour."], "samples.max_new_tokens": 3, "training.global_batch_size": 4}
    overrides = {"training.max_steps": 3, "training.save_every_steps": 3, "optimizer.lr": 1e-3, **sections}
    two = {**overrides, "cluster.processes_per_node": 2, "distributed.strategy": "fsdp"}
    run = make_run(recipe(tmp_path / "recipe", two), tmp_path / "ranks")
    outcome = run_attempt(run)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.result is not None
    one = LocalRun(tmp_path / "one", recipe(tmp_path / "alone", overrides).document(), train=run_training).attempt()
    losses = {event["step"]: event["values"]["loss"] for event in outcome.of_type("metrics")}
    assert losses == pytest.approx(one.series("loss"), rel=CLOSE)
    texts = [[event["text"] for event in events] for events in (outcome.of_type("sample"), one.of("sample"))]
    assert texts[0] == texts[1]
    assert one.checkpoint is not None
    folder = open_store(run).fetch(outcome.result["checkpoint"])
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        shards, whole = (load_file(checkpoint / name) for checkpoint in (folder, one.checkpoint))
        assert shards.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(shards[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.soak
def test_two_killed_processes_go_on_as_one_process_trains(tmp_path: Path) -> None:
    """Losses, weights and optimizer state equal those of one process with twice the accumulation."""
    overrides = {"cluster.processes_per_node": 2, "training.save_every_steps": 2, "training.max_steps": 60}
    run = make_run(recipe(tmp_path / "recipe", overrides), tmp_path / "ranks")
    kill_after(run, 2)
    newest = max(artifact.name for artifact in open_store(run).list(f"checkpoints/{run.run_id}"))
    step = int(newest.rpartition("-")[2])
    outcome = run_attempt(run, resume_from=newest, stop_when=lambda events: _count(events) >= 2)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.result is not None
    reached = outcome.result["step"]
    assert reached > step

    alone = recipe(tmp_path / "alone", {**overrides, "cluster.processes_per_node": 1})
    document = {**alone.document()}
    document["training"] = {**document["training"], "grad_accumulation_steps": 2, "save_every_steps": reached}
    single = LocalRun(tmp_path / "one", document, train=run_training)
    log = tmp_path / "one" / "1-0.jsonl"

    def stop() -> str | None:
        return "reached" if log.exists() and log.read_text().count('"metrics"') >= reached - 1 else None

    one = single.attempt(stop=stop)
    assert one.result.step == reached
    losses = {event["step"]: event["values"]["loss"] for event in outcome.of_type("metrics")}
    assert losses == {at: loss for at, loss in one.series("loss").items() if at > step}
    assert one.checkpoint is not None
    both = hashes(open_store(run).fetch(outcome.result["checkpoint"]))
    ours = hashes(one.checkpoint)
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert both[name] == ours[name]


def _count(events: Any) -> int:
    return sum(event["type"] == "metrics" for event in events)
