"""The Hugging Face backend keeps the contract of a backend."""

from __future__ import annotations

import pytest

from nexa.testing.backend import BackendContract

pytest.importorskip("trl")


class TestHf(BackendContract):
    plugin_name = "hf"
