"""The PyTorch engine keeps the contract of a backend."""

from __future__ import annotations

import pytest

from nexa.testing.backend import BackendContract

pytest.importorskip("torch")


class TestTorch(BackendContract):
    plugin_name = "torch"
