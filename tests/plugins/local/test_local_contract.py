"""The scheduler of this machine keeps the contract of a scheduler."""

from __future__ import annotations

from nexa.testing.scheduler import SchedulerContract


class TestLocal(SchedulerContract):
    plugin_name = "local"
