"""Two processes train what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import Run, chat_rows, tiny_recipe

HERE = Path(__file__).parent


def _two_ranks(document: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Run two processes that meet over gloo; return rank 0's events."""
    folder.mkdir()
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(document))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=0"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(HERE / "rank_worker.py"), str(recipe), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (folder / "1-0.jsonl").read_text().splitlines()]


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    document = tiny_recipe(
        chat_rows(tmp_path),
        training={"max_steps": None, "epochs": 1.4, "global_batch_size": 4, "microbatch_size_per_gpu": 1},
        data={"validation": {"fraction": 0.25}, "packing": False},
        cluster={"threads_per_process": 1},
        torch={"cpu_matmul": "native"},
    )
    one = Run(tmp_path / "one", document).attempt()
    document["cluster"]["processes_per_node"] = 2
    events = _two_ranks(document, tmp_path / "two")
    losses = {event["step"]: event["values"] for event in events if event["type"] == "metrics"}
    assert losses.keys() == one.series("loss").keys()
    for key in ("loss", "grad_norm", "tokens"):
        found = [losses[step][key] for step in losses]
        assert found == pytest.approx(list(one.series(key).values()), rel=5e-5)
    evaluations = [event["values"]["eval_loss"] for event in events if event["type"] == "eval"]
    expected = [event["values"]["eval_loss"] for event in one.of("eval")]
    assert evaluations == pytest.approx(expected, rel=5e-5)
    assert [event["step"] for event in events if event["type"] == "checkpoint"] == [one.result.step]
