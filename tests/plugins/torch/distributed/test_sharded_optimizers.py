"""Optimizers on shards of weights: two processes train what one does, and continue to the bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from running import Run, chat_rows, tiny_recipe
from starting import start

NAMES = ("lion", "schedule_free", "sgd")
CUT = ("schedule_free", "sophia")
STEPS = 4


def _recipe(rows: Path, name: str, processes: int, **training: Any) -> dict[str, Any]:
    return tiny_recipe(
        rows,
        training={"max_steps": STEPS, "global_batch_size": 4, "microbatch_size_per_gpu": 1, **training},
        model={"d_model": 32},
        data={"validation": {"fraction": 0.25}},
        optimizer={"name": name, "weight_decay": 0.1, "hessian_interval": 2, "scheduler": "constant"},
        cluster={"threads_per_process": 1, "processes_per_node": processes},
        distributed={"strategy": "fsdp"},
        torch={"cpu_matmul": "native"},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on two processes, whole and cut, and the same on one."""
    folder = tmp_path_factory.mktemp("sharded")
    rows = chat_rows(folder)
    phases = []
    for name in {*NAMES, *CUT}:
        # Sophia's estimates and the loss scale in one go.
        recipe = _recipe(rows, name, 2, precision="fp16" if name == "sophia" else "fp32")
        runs = [(name, 1, None), (f"{name}-cut", 1, 2), (f"{name}-cut", 2, None)]
        for run, attempt, stop_at in runs if name in CUT else runs[:1]:
            phases.append({"folder": str(folder / run), "recipe": recipe, "attempt": attempt, "stop_at": stop_at})
    plan = folder / "phases.json"
    plan.write_text(json.dumps(phases))
    start("run_worker.py", str(plan), world_size=2).succeed()
    for name in NAMES:
        Run(folder / f"{name}-one", _recipe(rows, name, 1)).attempt()
    return folder


def _losses(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for log in sorted(folder.glob("*-0.jsonl")) for line in log.read_text().splitlines()]
    return {record["step"]: record["values"]["loss"] for record in records if record["type"] == "metrics"}


@pytest.mark.parametrize("name", CUT)
def test_continues_to_the_bit(home: Path, name: str) -> None:
    assert len(list((home / f"{name}-cut").glob("*-0.jsonl"))) == 2
    assert _losses(home / f"{name}-cut") == _losses(home / name)
    whole, cut = (
        load_file(max((home / run / "store").rglob("model.safetensors"), key=lambda file: file.stat().st_mtime))
        for run in (name, f"{name}-cut")
    )
    assert all(cut[key].equal(value) for key, value in whole.items())


@pytest.mark.parametrize("name", NAMES)
def test_equals_one_process(home: Path, name: str) -> None:
    one, two = _losses(home / f"{name}-one"), _losses(home / name)
    assert list(two) == list(range(1, STEPS + 1))
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3)
