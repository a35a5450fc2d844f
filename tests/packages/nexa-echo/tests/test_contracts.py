"""Nexa's contract tests, run against this package."""

from nexa.testing.backend import BackendContract
from nexa.testing.conformance import ConformanceContract
from nexa.testing.distiller import DistillerContract
from nexa.reward import Completion
from nexa.testing.observer import ObserverContract
from nexa.testing.reward import RewardContract
from nexa.testing.scheduler import SchedulerContract
from nexa.testing.settings import SettingsContract
from nexa.testing.task import TaskContract


class TestBackend(BackendContract):
    plugin_name = "echo"
    overrides = {"model": {"name": "byte-counts"}}
    slow_overrides = {**BackendContract.slow_overrides, "echo.delay_seconds": 0.02}


class TestSettings(SettingsContract):
    plugin_name = "echo"
    overrides = {"model": {"name": "byte-counts"}}


class TestConformance(ConformanceContract):
    plugin_name = "echo"


class TestScheduler(SchedulerContract):
    plugin_name = "echo-detached"


class TestDistiller(DistillerContract):
    plugin_name = "echo-counts"


class TestObserver(ObserverContract):
    plugin_name = "echo-log"


class TestReward(RewardContract):
    plugin_name = "echo-words"
    options = {"penalty": 0.5}
    better = Completion(text="say it again", messages=[{"role": "user", "content": "say it again"}])
    worse = Completion(text="no", messages=better.messages)


class TestTask(TaskContract):
    plugin_name = "parity"
    model_name = "parity-net"
    data_uri = "synthetic:parity"
    overrides = {"data.validation.fraction": 0.25, "parity.width": 8}
