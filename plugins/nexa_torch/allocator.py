"""How this process's C library hands out memory for CPU tensors.

A training step frees and allocates the same large tensors again and again. By default glibc gives each
of them back to the system, which then clears every page anew at the first touch; that costs a good part of a
step. Kept in the process, the pages are used again.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from nexa_torch.callbacks.base import Callback, CallbackContext

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20
# Growth beyond the first step's size at which what lies free is given back.
_GROWTH_FACTOR = 1.5


class FreedMemory(Callback):
    """Keeps freed memory in the process, and gives it back when the process outgrows what a step needs.

    Make it before the model is loaded: tensors that exist already stay where they are. Only glibc on
    Linux has such settings; elsewhere `kept` is false and nothing is changed.
    """

    def __init__(self) -> None:
        self.kept = False
        self._limit: float | None = None
        if platform.libc_ver()[0] != "glibc":
            return
        self._libc = ctypes.CDLL(None)
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _TOP_PAD_BYTES))
        # mallopt returns 1 for a value it takes.
        self.kept = sum(self._libc.mallopt(parameter, value) for parameter, value in settings) == len(settings)

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Give free pages back when many lie idle: aligned blocks of one size can fail to fit where one lay."""
        if not self.kept:
            return
        resident = _resident_bytes()
        if self._limit is None:
            self._limit = resident * _GROWTH_FACTOR
        elif resident > self._limit:
            self._libc.malloc_trim(0)
            # What is left is in use: a larger need than before is no reason to trim after every step.
            self._limit = max(self._limit, _resident_bytes() * _GROWTH_FACTOR)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
