"""Makes the helpers beside these tests importable, and one teacher for all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Folder of a small teacher."""
    from teachers import make_teacher

    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Prepared data of these tests is kept in a folder of its own."""
    before = os.environ.get("NEXA_CACHE_DIR")
    os.environ["NEXA_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["NEXA_CACHE_DIR"]
    else:
        os.environ["NEXA_CACHE_DIR"] = before
