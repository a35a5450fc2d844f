"""Freed memory stays with the process and is used again, and never piles up."""

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")

STEPS = """
import json, resource, sys
import torch
from nexa_torch.allocator import FreedMemory

memory = FreedMemory() if sys.argv[1] == "kept" else None
assert memory is None or memory.kept
sizes = json.loads(sys.argv[2])
faults, leftovers = [], []
for step in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(size << 18) for size in sizes]
    leftovers.append(bytes(2000))  # small and lasting, between the large ones
    del tensors
    if memory:
        memory.on_step_end(None)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps({"faults": sum(faults[4:]), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}))
"""


def steps(mode: str, megabytes: list[int]) -> dict[str, int]:
    """Page faults of steps 5 to 12 and the peak resident bytes, of steps that allocate tensors of these sizes."""
    command = [sys.executable, "-c", STEPS, mode, json.dumps(megabytes)]
    answer: dict[str, int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return answer


def test_freed_memory_is_used_again() -> None:
    """A step of tensors of several sizes pays for far fewer pages than by default."""
    sizes = [96, 40, 64, 48]
    assert steps("kept", sizes)["faults"] < 0.5 * steps("default", sizes)["faults"]


def test_freed_memory_does_not_pile_up() -> None:
    """Not even for the sizes that glibc can't fit into the hole their predecessor left."""
    assert steps("kept", [256])["peak"] < steps("default", [256])["peak"] + 2 * (256 << 20)
