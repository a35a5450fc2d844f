"""The conformance kit on the Axolotl backend; what is otherwise by design, its spec names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from nexa.testing.conformance import ConformanceContract

PYTHON = os.environ.get("NEXA_AXOLOTL_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(
        not PYTHON,
        reason="needs Axolotl; type: nexa env create axolotl, and set NEXA_AXOLOTL_PYTHON to its interpreter",
    ),
    pytest.mark.soak,
]


class TestAxolotlConforms(ConformanceContract):
    """Each run of the kit starts Axolotl."""

    plugin_name = "axolotl"
    overrides: ClassVar[Mapping[str, Any]] = {"environment.name": PYTHON}
