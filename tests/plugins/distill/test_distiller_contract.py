"""The distiller `logits` against the contract of every distiller."""

from __future__ import annotations

import pytest

from nexa.testing.distiller import DistillerContract


class TestLogits(DistillerContract):
    """`logits` with a small teacher."""

    plugin_name = "logits"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_a_teacher(cls, teacher):
        cls.overrides = {"distill.teacher": str(teacher), "distill.capture.shard_tokens": 500}
