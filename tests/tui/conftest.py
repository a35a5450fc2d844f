"""Run directories as other processes write them, at a moment that tests choose, and the app over them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tui_steady

from nexa.runs.store import Run
from nexa.settings import Settings
from nexa.tui.preferences import Preferences
from nexa.tui.services import Services
from nexa.worker.identity import ProcessIdentity

NOW = 1_800_000_000.0


class RunSite:
    """Writes run directories below one folder, and makes apps over them with a clock that stands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = NOW
        self._made = 0

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    def services(self, **more: Any) -> Services:
        return Services(settings=Settings(runs_dir=self.runs_dir), clock=lambda: self.now, **more)

    def run(self, name: str = "count", *, end: str | None = None, silent: float = 1.0, **document: Any) -> Run:
        """A run that is alive, or ended in the state `end`; its events are `silent` seconds old."""
        self._made += 1
        run_id = f"20270115-08{self._made // 60:02d}{self._made % 60:02d}-{name}-abc{self._made:03d}"
        path = self.runs_dir / run_id
        for folder in ("attempts", "events", "logs", "checkpoints"):
            (path / folder).mkdir(parents=True)
        (path / "recipe.yaml").write_text("method: sft\noptimizer:\n  lr: 0.001  # small\n")
        store = {"factory": "nexa_file.store:FileStore", "uri": (self.root / "artifacts").as_uri()}
        (path / "plan.json").write_text(json.dumps({"schema": 1, "run_id": run_id, "recipe": {}, "store": store}))
        self.attempt(path, 1, end=end)
        self.events(path, [{"type": "start", "rank": 0, "world_size": 1, "host": "node7", "pid": 1, "attempt": 1}])
        self.silence(path, silent)
        facts = {"recipe_name": "tiny", "recipe_path": None, "method": "sft", "backend": "torch", "argv": ["nexa"]}
        facts |= {
            "schema": 1,
            "run_id": run_id,
            "created_at": self.now - 600 + self._made,
            "name": name,
            "scheduler": "local",
        }
        (path / "run.json").write_text(json.dumps({**facts, **document}))
        return Run(path)

    def attempt(self, path: Path, number: int, *, end: str | None = None) -> None:
        folder = path / "attempts" / str(number)
        (folder / "workers").mkdir(parents=True)
        here = ProcessIdentity.current().document()
        (folder / "attempt.json").write_text(json.dumps({"number": number, "created_at": self.now - 600}))
        (folder / "job.json").write_text(json.dumps({"scheduler": "local", "job_id": "1", "details": {}}))
        (folder / "supervisor.json").write_text(json.dumps({**here, "host": here["host"]}))
        (folder / "workers" / "0.json").write_text(json.dumps(here))
        if end is not None:
            document = {"state": end, "exit_code": 0, "reason": "", "ended_at": self.now - 5}
            (folder / "exit.json").write_text(json.dumps(document))

    def events(self, path: Path, records: list[dict[str, Any]], *, attempt: int = 1, rank: int = 0) -> None:
        """Append event records; "ts" counts up from ten minutes ago unless given."""
        with (path / "events" / f"{attempt}-{rank}.jsonl").open("a") as file:
            for index, record in enumerate(records):
                file.write(json.dumps({"ts": self.now - 600 + index, **record}, separators=(",", ":")) + "\n")
        self.silence(path, 1.0)

    def silence(self, path: Path, seconds: float) -> None:
        """Make the events this old."""
        for file in (path / "events").iterdir():
            os.utime(file, (self.now - seconds, self.now - seconds))

    def train(self, path: Path, first: int, last: int, *, total: int = 200, attempt: int = 1, **values: Any) -> None:
        """Append the events of training steps, one a second."""
        records: list[dict[str, Any]] = []
        for step in range(first, last + 1):
            loss = 1.0 + 2.0 * math.exp(-step / 30) + 0.1 * math.sin(step)
            metrics = {"loss": loss, "lr": 0.001, "tokens": step * 1000, "tokens_per_second": 950.0} | values
            moment = self.now - 600 + step
            records.append({"ts": moment, "type": "metrics", "step": step, "values": metrics})
            records.append({"ts": moment, "type": "progress", "phase": "training", "step": step, "total_steps": total})
        self.events(path, records, attempt=attempt)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notifications stay, nothing is animated, keys are handled before a test goes on."""
    tui_steady.apply(monkeypatch)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunSite]:
    """Run directories in a folder of the test's own; clocks on the wall show UTC."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield RunSite(tmp_path)
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def preferences(tmp_path: Path) -> Preferences:
    """Preferences kept in a file, as between two sessions."""
    return Preferences.load(tmp_path / "tui.json")


@pytest.fixture
def drive() -> Callable[..., None]:
    """Runs an app without a terminal and hands it, with its pilot, to a coroutine."""

    def drive(app: Any, script: Callable[[Any], Awaitable[None]], *, size: tuple[int, int] = (100, 30)) -> None:
        async def main() -> None:
            async with app.run_test(size=size) as pilot:
                await script(pilot)

        asyncio.run(main())

    return drive


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits for a condition on the screen: `await until(pilot, lambda: …)`."""
    return tui_steady.until


@pytest.fixture
def text_of() -> Callable[[Any], str]:
    """What the terminal shows, as lines of text."""
    return tui_steady.screen_text


@pytest.fixture
def told() -> Callable[[Any], str]:
    """What the app has notified of, not broken into lines."""
    return tui_steady.told
