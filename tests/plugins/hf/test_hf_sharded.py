"""Trainer state of a model that FSDP shards over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")


@pytest.mark.soak
def test_the_state_of_shards_is_that_of_the_whole_model(tmp_path: Path) -> None:
    """Two ranks save what one would, and go on from it exactly."""
    script = Path(__file__).with_name("sharded_state.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "equal" in done.stdout
