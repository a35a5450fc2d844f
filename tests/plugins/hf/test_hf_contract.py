"""The Hugging Face backend passes the tests that every backend must pass."""

from __future__ import annotations

from typing import ClassVar

from nexa.testing.backend import BackendContract


class TestHfBackend(BackendContract):
    """Fine-tuning of the tiny model with TRL."""

    plugin_name: ClassVar[str] = "hf"
