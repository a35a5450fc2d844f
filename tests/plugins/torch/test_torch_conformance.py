"""The PyTorch engine trains what the conformance kit's reference trains."""

from __future__ import annotations

import pytest

from nexa.testing.conformance import ConformanceContract

pytest.importorskip("torch")


class TestTorch(ConformanceContract):
    plugin_name = "torch"
