"""Makes the helpers here and of the PyTorch backend's tests importable, and its libraries quiet as in workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nexa_hf.backend import ENVIRONMENT

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "torch")]
# The Hugging Face libraries read them when they are first imported, which no module before this one does.
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
