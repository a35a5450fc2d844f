"""How this process's C library hands out memory for CPU tensors.

A training step frees and allocates the same large tensors again and again. By default glibc gives each
of them back to the system, which then clears every page anew at the first touch; that costs a good part of a
step. Kept in the process, the pages are used again. The price is a larger resident size: freed memory
up to the largest sum ever in use stays with the process.
"""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_LARGEST_INT = 2**31 - 1
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation; returns whether it can be told to.

    Only glibc on Linux has these settings; elsewhere nothing is changed. Call it before the model is
    loaded: tensors that exist already stay where they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _GROWTH_BYTES))
    # mallopt returns 1 for a value it takes; every setting is tried.
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
