"""Saving while training goes on: the same files, whole or not at all, and a failure that ends the run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import RUN_ID, Run, chat_rows, tiny_recipe

from nexa.errors import NexaError, WorkerError
from nexa_torch.engine.saving import Saver
from nexa_torch.tasks.language_model import LanguageModelTask

STEPS = 6


def recipe(rows: Path, *, async_save: bool, **training: Any) -> dict[str, Any]:
    return tiny_recipe(
        rows,
        training={"max_steps": STEPS, "save_every_steps": 1, **training},
        model={"d_model": 32},
        checkpointing={"async_save": async_save},
        cluster={"threads_per_process": 1},
        torch={"cpu_matmul": "native"},
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that holds a few checkpoints."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_same_checkpoints_as_when_training_waits(tmp_path: Path) -> None:
    rows = chat_rows(tmp_path)
    runs = {name: Run(tmp_path / str(name), recipe(rows, async_save=name)) for name in (False, True)}
    finished = {name: run.attempt() for name, run in runs.items()}
    assert [e["step"] for e in finished[True].of("checkpoint")] == [e["step"] for e in finished[False].of("checkpoint")]
    assert finished[True].series("loss") == finished[False].series("loss")
    for step in range(1, STEPS + 1):
        name = f"checkpoints/{RUN_ID}/step-{step:08d}"
        waited, behind = (run.store.fetch(name) for run in runs.values())
        for file in ("model.safetensors", "trainer/optimizer/state.safetensors"):
            assert (behind / file).read_bytes() == (waited / file).read_bytes(), (step, file)
        assert runs[True].store.verify(name) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "save-checkpoint"]


def test_a_run_resumes_from_a_background_save(tmp_path: Path) -> None:
    document = recipe(chat_rows(tmp_path), async_save=True)
    whole = Run(tmp_path / "whole", document).attempt()
    cut = Run(tmp_path / "cut", document)
    log = tmp_path / "cut" / "1-0.jsonl"
    stopped = cut.attempt(stop=lambda: "enough" if log.exists() and '"type":"metrics"' in log.read_text() else None)
    assert 0 < stopped.result.step < STEPS
    resumed = cut.attempt()
    assert {**stopped.series("loss"), **resumed.series("loss")} == whole.series("loss")
    assert resumed.checkpoint is not None
    assert whole.checkpoint is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (whole.checkpoint, resumed.checkpoint))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk_ends_the_run_and_leaves_what_was_committed(
    tmp_path: Path, small_disk: Path, async_save: bool
) -> None:
    run = Run(small_disk / "run", recipe(chat_rows(tmp_path), async_save=async_save, max_steps=50))
    with pytest.raises(NexaError) as caught:
        run.attempt()
    assert "space" in str(caught.value) or "do not fit" in str(caught.value), caught.value
    kept = run.store.list(f"checkpoints/{RUN_ID}")
    assert kept
    assert all(run.store.verify(artifact.name) == [] for artifact in kept)


def test_weights_changed_while_they_are_copied_are_never_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that writes into weights by itself ends the run with the reason; the torn copy is thrown away."""
    written = threading.Event()
    train_step, staged = LanguageModelTask.train_step, Saver._staged

    def writing_step(task: Any, batch: Any, model: Any, criterion: Any) -> Any:
        if task.saves > 0:
            with torch.no_grad():
                next(model.parameters()).mul_(0.5)
            written.set()
        task.saves += 1
        return train_step(task, batch, model, criterion)

    def slow_copy(saver: Saver, snapshot: Any) -> Any:
        copy = staged(saver, snapshot)
        assert written.wait(60)
        return copy

    monkeypatch.setattr(LanguageModelTask, "saves", 0, raising=False)
    monkeypatch.setattr(LanguageModelTask, "train_step", writing_step)
    monkeypatch.setattr(Saver, "_staged", slow_copy)
    document = recipe(chat_rows(tmp_path), async_save=True, grad_accumulation_steps=1)
    run = Run(tmp_path / "run", document)
    with pytest.raises(WorkerError, match="outside the optimizer's step"):
        run.attempt()
    assert run.store.list(f"checkpoints/{RUN_ID}") == []
