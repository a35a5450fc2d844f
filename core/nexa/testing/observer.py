"""Contract tests of an observer: any run's events pass through it, and it lets go of everything."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.observer import Observer
from nexa.plugins import PluginHost
from nexa.testing.base import CreatedPluginContract

RUN_ID = "20260101-000000-tiny-abcdef"
START_TS = 1_767_225_600.0


def sample_events(*, first_step: int = 1, last_step: int = 4) -> list[dict[str, Any]]:
    """A run's records of every type, as rank 0 writes them."""
    records: list[dict[str, Any]] = [
        {"type": "start", "attempt": 1, "rank": 0, "world_size": 1, "host": "node1", "pid": 4242},
        {"type": "progress", "phase": "loading", "step": 0, "total_steps": last_step},
    ]
    for step in range(first_step, last_step + 1):
        values = {"loss": 4.0 / step, "lr": 1e-3, "grad_norm": None, "tokens": 128 * step}
        records.append({"type": "metrics", "step": step, "values": values})
    records += [
        {"type": "eval", "step": last_step, "values": {"eval_loss": 1.25, "perplexity": 3.49}},
        {"type": "sample", "step": last_step, "prompt": "Name a <b>colour</b>.", "text": "Blue\x1b[31m ☃ \u202e"},
        {
            "type": "checkpoint",
            "step": last_step,
            "name": f"checkpoints/{RUN_ID}/step-4",
            "hash": "sha256:0",
            "bytes": 1,
        },
        {"type": "message", "level": "warning", "text": "grad_norm is not a finite number; recorded as null"},
        {"type": "heartbeat"},
        {"type": "a type of a later version", "anything": [1, {"x": None}]},
        {"type": "end", "state": "completed", "step": last_step, "message": ""},
    ]
    return [{"ts": START_TS + number, **record} for number, record in enumerate(records)]


class ObserverContract(CreatedPluginContract):
    """Every test an observer must pass.

    options: the recipe section to test with, such as one that keeps a tracker offline.
    """

    kind = "observer"
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def run_dir(self, tmp_path: Path) -> Path:
        """An empty run directory."""
        folder = tmp_path / RUN_ID
        folder.mkdir()
        return folder

    @pytest.fixture
    def observer(self, host: PluginHost, run_dir: Path) -> Iterator[Observer]:
        """The observer under test, closed afterwards."""
        observer = host.create("observer", self.plugin_name)
        yield observer
        observer.close()

    def watch(self, observer: Observer, run_dir: Path, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass a whole attempt through an observer."""
        observer.open(RUN_ID, run_dir, {"method": "sft", "training": {"max_steps": 4}}, self.options)
        for record in events:
            observer.event(record)
        observer.close()

    def test_its_test_options_are_valid(self, host: PluginHost) -> None:
        """The section that the tests use is one that a recipe may hold."""
        model = host.options_model(self.plugin_name)
        if self.options:
            assert model is not None
            model.model_validate(dict(self.options))

    def test_it_takes_every_event(self, observer: Observer, run_dir: Path) -> None:
        """All record types pass, also one it does not know, null values and control characters."""
        self.watch(observer, run_dir, sample_events())

    def test_it_leaves_the_record_as_it_is(self, observer: Observer, run_dir: Path) -> None:
        """Records are shared by all observers."""
        events, untouched = sample_events(), sample_events()
        self.watch(observer, run_dir, events)
        assert events == untouched

    def test_a_later_attempt_continues(self, host: PluginHost, observer: Observer, run_dir: Path) -> None:
        """A second attempt that trains some steps again is accepted."""
        self.watch(observer, run_dir, sample_events(last_step=3))
        self.watch(host.create("observer", self.plugin_name), run_dir, sample_events(first_step=2))

    def test_close_is_enough_after_open(self, observer: Observer, run_dir: Path) -> None:
        """A run that fails before its first event closes cleanly."""
        self.watch(observer, run_dir, [])

    def test_close_without_open_is_quiet(self, observer: Observer) -> None:
        """An observer whose `open` failed is still closed."""
        observer.close()

    def test_no_thread_outlives_close(self, observer: Observer, run_dir: Path) -> None:
        """A thread left running would keep the worker process alive."""
        before = set(threading.enumerate())
        self.watch(observer, run_dir, sample_events())
        left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        assert left == []
