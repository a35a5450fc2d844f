"""A real Slurm cluster for the tests of this folder, and runs on it.

Without Slurm the tests are skipped with the command that installs it; NEXA_REQUIRE_SLURM=1 makes that a
failure instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing
from slurm_runs import SlurmRuns
from workspace import Workspace, make_workspace

import nexa_slurm.queue


def _cluster(*, accounting: bool) -> Iterator[Cluster]:
    reason = missing(accounting=accounting)
    if reason is not None:
        if os.environ.get("NEXA_REQUIRE_SLURM"):
            pytest.fail(f"NEXA_REQUIRE_SLURM is set, but {reason}")
        pytest.skip(reason)
    made = Cluster(Path(tempfile.mkdtemp(prefix="nexa-slurm-", dir="/tmp")), accounting=accounting)
    before = dict(os.environ)
    os.environ.update(made.environment)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        os.environ.clear()
        os.environ.update(before)
    assert made.processes() == []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three idle nodes without accounting, shared by the tests of a process."""
    yield from _cluster(accounting=False)


@pytest.fixture
def accounting_cluster() -> Iterator[Cluster]:
    """Three idle nodes with slurmdbd and MariaDB."""
    yield from _cluster(accounting=True)


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look at the queue as often as a test asks; the rate has a test of its own."""
    monkeypatch.setattr(nexa_slurm.queue, "INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(nexa_slurm.queue, "QUERIES_PER_MINUTE", 10_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def runs(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmRuns]:
    """Runs of the counting backend on the cluster; their jobs are gone afterwards."""
    made = SlurmRuns(tmp_path, cluster)
    yield made
    made.end_all()


@pytest.fixture
def workspace(cluster: Cluster, tmp_path: Path) -> Iterator[Workspace]:
    """A folder of recipes with nexa-echo installed; jobs of its commands are gone afterwards."""
    made = make_workspace(tmp_path / "work")
    made.install_echo()
    yield made
    SlurmRuns(tmp_path, cluster).end_all()
