"""One rank that trains every recipe of a file in one group: CASES_JSON FOLDER. Rank 0 writes what each computed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from arithmetic import run

from nexa_torch.distributed.process_group import process_group


def main() -> None:
    """Train all cases, in the same order on every rank."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    with process_group(rank, rank, world_size, gpus=0, timeout=120.0) as ranks:
        for name, document in cases.items():
            trace = run(document, ranks=ranks)
            if ranks.is_main:
                torch.save({"losses": trace.losses, "gradients": trace.gradients}, folder / f"{name}.pt")


if __name__ == "__main__":
    main()
