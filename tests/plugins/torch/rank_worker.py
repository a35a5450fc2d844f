"""One rank of a two-process run, started by torch.distributed.run: RECIPE_JSON FOLDER [STOP_AFTER]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from running import Run


def main() -> None:
    """Train this rank's part; a stop is asked of rank 1 alone, and both must heed it."""
    document, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    run = Run(folder, document, rank=rank, world_size=world_size)
    stop_file = folder / "stop"
    run.attempt(stop=lambda: "asked" if rank == 1 and stop_file.exists() else None)


if __name__ == "__main__":
    main()
