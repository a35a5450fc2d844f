"""Workspaces for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import Workspace, end_all, make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace of one test; its runs are ended afterwards."""
    made = make_workspace(tmp_path / "work")
    yield made
    end_all(made)
