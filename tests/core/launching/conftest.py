"""A project folder, and two plugins installed the way a third party's are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa.plugins import get_host
from nexa.runs.actions import kill
from nexa.runs.state import run_status
from nexa.runs.store import RunStore

SITE = Path(__file__).parent / "site"

RECIPE = """\
method: sft
backend: small
model:
  name: org/model
data:
  remote_uri: hf:org/rows
training:
  max_steps: 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of the test, with a recipe; what it leaves running is ended."""
    site = tmp_path / "site"
    for name, version in (("planned", "2.0"), ("small", "3.1")):
        information = site / f"nexa_{name}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nexa-{name}\nVersion: {version}\n")
        (information / "entry_points.txt").write_text(f"[nexa]\n{name} = nexa_{name}\n")
        shutil.copy(SITE / f"nexa_{name}.py", site)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(folder)
    get_host.cache_clear()
    yield folder
    get_host.cache_clear()
    for run in RunStore(folder / "runs").list():
        if run_status(run).active:
            kill(run)
