"""Seeds of everything random in a step: pure functions, so that no generator state is kept or restored."""

from __future__ import annotations

import hashlib


def dropout_seed(seed: int, step: int, microbatch: int) -> int:
    """Seed of the random numbers of one microbatch.

    The same on any number of ranks, since microbatches are counted over all of them.
    """
    return _derived(f"{seed}/{step}/{microbatch}")


def fetch_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random numbers that loading the batches of a step may draw in this process."""
    return _derived(f"{seed}/load/{step}/{rank}")


def _derived(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
