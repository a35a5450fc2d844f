"""The task `distill` against the contract of every task: whole runs in worker processes, and exact resume."""

from __future__ import annotations

import pytest

from nexa.testing.task import TaskContract


@pytest.mark.soak
class TestDistill(TaskContract):
    """`distill` with a teacher in the step."""

    plugin_name = "distill"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_a_teacher(cls, teacher):
        cls.overrides = {"distill.mode": "online", "distill.teacher": str(teacher), "data.packing": False}
        yield
        cls.overrides = {}
