"""Recipes written for one test, in a folder and with settings of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

BASE = """\
method: sft
model:
  name: org/model
data:
  remote_uri: rows.jsonl
"""

WriteRecipe = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no settings of the person who runs the tests."""
    for name in ("NEXA_RUNS_DIR", "NEXA_STORE_URI", "NEXA_SCHEDULER", "NEXA_DEFAULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def write_recipe(tmp_path: Path) -> WriteRecipe:
    """Write a recipe below the test's folder; `base` lines come first unless `base=""`."""

    def write(text: str = "", *, name: str = "recipe.yaml", base: str = BASE) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(base + textwrap.dedent(text), encoding="utf-8")
        return path

    return write
