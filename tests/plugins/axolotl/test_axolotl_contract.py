"""The Axolotl backend keeps the contract of backends, in Axolotl's own environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from nexa.testing.backend import BackendContract

VARIABLE = "NEXA_AXOLOTL_PYTHON"

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get(VARIABLE),
        reason=f"needs Axolotl; type: nexa env create axolotl, and set {VARIABLE} to its interpreter",
    ),
    pytest.mark.soak,
]


class TestAxolotlBackend(BackendContract):
    """Runs of a two-layer model on CPU; each starts Axolotl, which takes tens of seconds."""

    plugin_name = "axolotl"
    overrides: ClassVar[Mapping[str, Any]] = {"data.packing": False, "environment.name": os.environ.get(VARIABLE, "")}
