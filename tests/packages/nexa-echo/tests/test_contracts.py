"""Nexa's contract tests, run against this package."""

from nexa.testing.backend import BackendContract
from nexa.testing.distiller import DistillerContract
from nexa.testing.observer import ObserverContract
from nexa.testing.scheduler import SchedulerContract


class TestBackend(BackendContract):
    plugin_name = "echo"
    overrides = {"model": {"name": "byte-counts"}}
    slow_overrides = {**BackendContract.slow_overrides, "echo.delay_seconds": 0.02}


class TestScheduler(SchedulerContract):
    plugin_name = "echo-detached"


class TestDistiller(DistillerContract):
    plugin_name = "echo-counts"


class TestObserver(ObserverContract):
    plugin_name = "echo-log"
