"""A text from rank 0 to all ranks of a launcher, before there is a process group."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import torch.distributed as dist

from nexa.errors import WorkerError
from nexa_torch.distributed.environment import detect_environment
from nexa_torch.distributed.process_group import meet

if TYPE_CHECKING:
    from torch.distributed import Store

# Rank 0 checks the recipe and writes the run's folder meanwhile.
_SECONDS = 300.0
_STORES: list[Store] = []
_NUMBERS = count()


def share(text: str | None) -> str:
    """Return rank 0's text on every rank, through the store that they later meet at for training.

    To be called on every rank the same number of times; rank 0, which gives the text, does not wait for
    the others. Raises WorkerError where the store or rank 0 can't be reached.
    """
    place = detect_environment()
    if not _STORES:
        # It lives as long as the process: others may still read from it.
        _STORES.append(meet(place, _SECONDS))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, key = dist.PrefixStore(f"nexa/shared/{restart}", _STORES[0]), str(next(_NUMBERS))
    try:
        if text is not None:
            store.set(key, text)
            return text
        store.wait([key], timedelta(seconds=_SECONDS))
        return store.get(key).decode()
    except (dist.DistError, RuntimeError) as error:
        raise WorkerError(
            f"rank {place.rank} can't learn from rank 0 which run this is: {str(error).strip().splitlines()[0]}",
            hint=f"did rank 0 start, at {place.master_addr}:{place.master_port}? Its own message says more",
        ) from error
