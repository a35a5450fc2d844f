"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# A shell starts background jobs with Ctrl-C ignored, nohup those with a closed terminal ignored, and every process
# below would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores, at least 2: half the time tests wait for processes that they started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores * 3 // 2)


@pytest.fixture(scope="session", autouse=True)
def _own_environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Environments, and copies of code for them, in a folder that ends with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXA_ENVIRONMENTS_DIR", str(tmp_path_factory.mktemp("environments")))
        yield
