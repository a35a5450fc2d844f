"""Freed memory stays with the process, so that the next step needs no new pages."""

import platform
import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from nexa_torch.allocator import keep_freed_memory

assert sys.argv[1] == "default" or keep_freed_memory()

def faults_of_one_round():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_one_round()
print(faults_of_one_round())
"""


def page_faults(mode: str) -> int:
    """Page faults of allocating, filling and freeing 64 MB four times, after the first such round."""
    answer = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True)
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again() -> None:
    """By default every round pays for its pages; kept memory costs (nearly) none."""
    assert page_faults("default") > 1000
    assert page_faults("keep") < 100
