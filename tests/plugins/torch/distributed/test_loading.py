"""A sharded model is loaded by one rank; the others hold no more than their shards and a block on its way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from starting import start


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to reset a memory peak")
def test_one_model_on_the_machine_not_one_a_rank(tmp_path: Path) -> None:
    start("loading_worker.py", str(tmp_path)).succeed()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    size = first["model"]
    assert size == second["model"] > 90e6
    assert first["grown"] < 1.8 * size, "the whole model and its own half"
    assert second["grown"] < 0.85 * size, "its half, and a block at a time"
