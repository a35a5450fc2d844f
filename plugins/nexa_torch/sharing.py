"""A text from rank 0 to all ranks of a launcher, before there is a process group."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from torch.distributed import DistError, PrefixStore, Store, rendezvous

from nexa.errors import WorkerError

if TYPE_CHECKING:
    from nexa.worker.place import LauncherRanks

# Rank 0 checks the recipe and writes the run's folder meanwhile.
_TIMEOUT = timedelta(minutes=5)
_KEEP: list[Store] = []


def share(text: str | None, ranks: LauncherRanks) -> str:
    """Return rank 0's text on every rank, through the store at MASTER_ADDR:MASTER_PORT.

    Rank 0 does not wait for the others. Raises WorkerError where the store or rank 0 can't be reached.
    """
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, _, _ = next(rendezvous("env://", rank=ranks.rank, world_size=ranks.world_size, timeout=_TIMEOUT))
        # The store lives as long as the process: others may still read, and the process group joins it.
        _KEEP.append(store)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own = PrefixStore(f"nexa/{restart}", store)
        if text is not None:
            own.set("run", text)
            return text
        own.wait(["run"], _TIMEOUT)
        return own.get("run").decode()
    except (DistError, RuntimeError, ValueError, StopIteration) as error:
        raise WorkerError(
            f"rank {ranks.rank} can't learn from rank 0 at {where} which run this is: {str(error).splitlines()[0]}",
            hint="was rank 0 started, and is MASTER_ADDR its machine?",
        ) from error
