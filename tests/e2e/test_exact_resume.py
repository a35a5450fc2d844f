"""Long runs of what docs/explanation/exact-resume.md promises: many cuts, and storms of signals."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from workspace import Workspace, end_all, losses, make_workspace, process, status, until, wait

pytestmark = pytest.mark.soak

LENGTH = ("training.max_steps=24", "training.save_every_steps=3", "training.eval_every_steps=4")
HELD_OUT = ("data.validation.fraction=0.2", "training.grad_accumulation_steps=null")
CASES = {
    "one-process": ("training.global_batch_size=8",),
    "loader-workers": ("data.loader_workers=2",),
    "in-the-background": ("checkpointing.async_save=true", "training.save_every_steps=1"),
    "two-copies": ("cluster.processes_per_node=2", "distributed=ddp", "training.global_batch_size=8"),
    "two-shards": ("cluster.processes_per_node=2", "distributed=fsdp", "checkpointing.async_save=true"),
    "by-epochs": ("training.max_steps=null", "training.epochs=3"),
}


@pytest.fixture
def workspace(tmp_path: Path):
    made = make_workspace(tmp_path / "work")
    yield made
    end_all(made)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("case", CASES)
def test_cuts_leave_no_trace(workspace: Workspace, case: str) -> None:
    arguments = ("tiny.yaml", *LENGTH, *HELD_OUT, *CASES[case], "--cuts", "6", "--seed", "11")
    outcome = workspace.nexa("verify-resume", *arguments, timeout=1400)
    assert outcome.exit_code == 0, outcome.out + outcome.err
    assert "result: bit-exact" in outcome.out


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("async_save", ["false", "true"])
def test_storms_of_signals(workspace: Workspace, async_save: str) -> None:
    """300 signals in 20 attempts, many during saves: each attempt ends in order with a whole checkpoint."""
    chance = random.Random(5)
    endless = ("training.max_steps=100000", "training.save_every_steps=1", "checkpointing.keep_last=3")
    run = workspace.launch("tiny.yaml", *endless, f"checkpointing.async_save={async_save}")
    for attempt in range(1, 21):
        before = max(losses(run), default=0)
        until(lambda before=before: max(losses(run), default=0), lambda step, before=before: step > before)
        pid = process(run, "workers/0.json", attempt)
        for _ in range(15):
            try:
                os.kill(pid, chance.choice([signal.SIGTERM, signal.SIGUSR1]))
            except ProcessLookupError:
                break
            time.sleep(chance.random() * 0.02)
        ended = wait(run, timeout=60.0)
        assert ended.state == "stopped", ended.reason
        checkpoint = status(run).checkpoint
        assert workspace.nexa("artifacts", "verify", checkpoint).exit_code == 0
        assert workspace.nexa("resume", run.name, "--detach").exit_code == 0
    assert workspace.nexa("kill", run.name).exit_code == 0
