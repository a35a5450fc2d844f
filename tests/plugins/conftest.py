"""Threads wait as they do in workers."""

from __future__ import annotations

import os

from nexa_torch.backend import CPU_ENVIRONMENT

# OpenMP reads it when torch is first imported, which no module before this one does.
for name, value in CPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
# Where several processes test at once the cores are taken, and threads would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
