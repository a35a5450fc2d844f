"""A project with a third-party backend that trains in moments, and the app over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nexa.plugins import get_host
from nexa.runs.actions import kill
from nexa.runs.state import run_status
from nexa.runs.store import RunStore

RECIPE = """\
# Counts bytes.
description: Count the bytes of a few rows
tags: [tiny, sft]
method: sft
backend: echo
model: {name: byte-counts}
data:
  remote_uri: rows.jsonl  # beside this file
training:
  max_steps: 6
  save_every_steps: 500
echo:
  delay_seconds: 0.01
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The current folder, with the recipe `tiny` and nexa-echo installed; what runs is ended afterwards."""
    sources = pytestconfig.rootpath / "tests" / "packages" / "nexa-echo" / "src"
    site = tmp_path / "site"
    information = site / "nexa_echo-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
    folder = tmp_path / "project"
    (folder / "recipes").mkdir(parents=True)
    (folder / "nexa.toml").write_text("")
    (folder / "recipes" / "tiny.yaml").write_text(RECIPE)
    (folder / "recipes" / "rows.jsonl").write_text('{"text": "one two three"}\n{"text": "four five"}\n' * 4)
    for place in (sources, site):
        monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{sources}")
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("NEXA_RUNS_DIR", "NEXA_STORE_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(folder)
    get_host.cache_clear()
    yield folder
    get_host.cache_clear()
    for run in RunStore(folder / "runs").list():
        if run_status(run).active:
            kill(run)


@pytest.fixture
def opened() -> Callable[..., Any]:
    """Opens the app headlessly: `async with opened(size=…, **fields of Services) as pilot`."""

    @asynccontextmanager
    async def open_app(*, size: tuple[int, int] = (150, 45), screen: str = "1", **fields: Any) -> AsyncIterator[Any]:
        from nexa.settings import get_settings
        from nexa.tui.app import NexaApp
        from nexa.tui.services import Services

        app = NexaApp(Services(settings=get_settings(), **fields))
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.press(screen)
            yield pilot

    return open_app


@pytest.fixture
def screen_text(text_of: Callable[[Any], str]) -> Callable[[Any], str]:
    """What the app shows now, as lines of text."""
    return text_of
