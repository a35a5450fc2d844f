"""Makes the helpers beside these tests importable, and threads wait as they do in workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nexa_torch.backend import CPU_ENVIRONMENT

sys.path.insert(0, str(Path(__file__).parent))
# OpenMP reads it when torch is first imported, which no module before this one does.
for name, value in CPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
