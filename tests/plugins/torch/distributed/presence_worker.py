"""One rank that meets the others and then misbehaves: BEHAVIOUR FOLDER.

Writes what it ended with to FOLDER/RANK.json: the error's class and message.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from nexa.errors import DataError, NexaError
from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.ranks import Ranks


def die(ranks: Ranks) -> None:
    """Rank 1 is killed while the others are in a collective."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def die_while_preparing(ranks: Ranks) -> None:
    """Rank 1 is killed while the others wait for its data."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.gather("data")


def fall_silent(ranks: Ranks) -> None:
    """Rank 1 is stopped while the others are in a collective."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.barrier()


def fail(ranks: Ranks) -> None:
    """Rank 1 finds its data wrong while the others are in a collective."""
    if ranks.rank == 1:
        raise DataError("rows.jsonl:7: not JSON", hint="mend it")
    ranks.barrier()


def be_slow(ranks: Ranks) -> None:
    """Rank 1 prepares longer than any collective may take."""
    if ranks.rank == 1:
        time.sleep(float(os.environ["TIMEOUT"]) * 1.5)
    assert ranks.gather("data", flag=ranks.rank == 1)
    ranks.barrier()


def not_come(ranks: Ranks) -> None:
    """Rank 1 was never started."""


def main() -> None:
    """Meet, misbehave, report."""
    behaviour, folder = globals()[sys.argv[1]], Path(sys.argv[2])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    ended = {"error": None, "message": "", "hint": ""}
    try:
        with process_group(rank, rank, world_size, gpus=0, timeout=float(os.environ["TIMEOUT"])) as ranks:
            behaviour(ranks)
    except NexaError as error:
        ended = {"error": type(error).__name__, "message": error.message, "hint": error.hint or ""}
    assert not dist.is_initialized()
    (folder / f"{rank}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
