"""One rank that does attempts of runs, one after the other: PHASES_JSON.

A phase is {"folder", "recipe", "attempt", "stop_at"}: where the run is, its recipe, the attempt's number
(above 1 it continues from the newest checkpoint), and the step at which rank 1 alone is asked to stop.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from running import RUN_ID, Run


def stopper(log: Path, step: int | None) -> Callable[[], str | None]:
    """Asks for a stop once rank 0 has logged a step."""

    def asked() -> str | None:
        if step is None or not log.exists():
            return None
        records = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        return "enough" if any(r["type"] == "metrics" and r["step"] >= step for r in records) else None

    return asked


def main() -> None:
    """Do every phase; each meets at a port of its own."""
    rank, world_size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    for number, phase in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["MASTER_PORT"] = str(port + number)
        folder, attempt = Path(phase["folder"]), phase["attempt"]
        run = Run(folder, phase["recipe"], rank=rank, world_size=world_size)
        if attempt > 1:
            newest = max(artifact.name for artifact in run.store.list(f"checkpoints/{RUN_ID}"))
            run.continue_from(run.store.fetch(newest), attempt=attempt)
        stop = stopper(folder / f"{attempt}-0.jsonl", phase["stop_at"]) if rank == 1 else lambda: None
        run.attempt(stop=stop)


if __name__ == "__main__":
    main()
