"""Run on two ranks by test_hf_processes.py: one run after another over gloo, in processes that import torch once.

Its argument is a JSON file of the runs by name: `folder`, `recipe`, and the checkpoint to continue `from`, if any.
Rank 0 prints one JSON object: of each run the loss of its steps, its samples, and its checkpoints' hashes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "torch"))

from hf_running import hashes
from running import Run

from nexa_hf.run import run_training

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def main(cases: Path) -> None:
    """Train all of them."""
    found = {}
    for name, case in json.loads(cases.read_text(encoding="utf-8")).items():
        run = Run(Path(case["folder"]), case["recipe"], rank=RANK, world_size=WORLD, train=run_training)
        if "from" in case:
            run.continue_from(Path(case["from"]), attempt=2)
        done = run.attempt()
        kept = sorted((Path(case["folder"]) / "store").glob("checkpoints/run/*"))
        found[name] = {
            "losses": done.series("loss") if RANK == 0 else {},
            "samples": [event["text"] for event in done.of("sample")],
            "hashes": {folder.name: hashes(folder) for folder in kept},
        }
    if RANK == 0:
        print(json.dumps(found))


main(Path(sys.argv[1]))
