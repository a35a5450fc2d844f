"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest

# A shell starts background jobs with Ctrl-C ignored, and every process below would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes minutes, unless a marker expression such as `-m soak` says what is wanted."""
    if config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="takes minutes; run it with: make test PYTEST_ARGS='-m soak'")
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(skip)
