"""The whole way in a real terminal: choose, change, launch, watch, quit, come back, stop, resume, kill, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tui_terminal import SECONDS, TMUX, Terminal, launch, open_recipe

from nexa.runs.state import RunStatus, State, run_status
from nexa.runs.store import Run, RunStore

pytestmark = pytest.mark.skipif(TMUX is None, reason="needs tmux")


@pytest.fixture
def terminal(project: Path) -> Iterator[Terminal]:
    """A terminal in the project."""
    made = Terminal(project)
    yield made
    made.close()


def _await_status(run: Run, wanted: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + SECONDS
    while not wanted(status := run_status(run)):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def test_from_recipe_to_comparison(project, terminal):
    terminal.open()
    terminal.await_text("1 Launch", "6 Plugins")
    open_recipe(terminal, "tiny", words="byte-counts", hidden="quickstart")
    launch(terminal, "training.max_steps", "9000")
    terminal.await_screen(lambda shown: "loss" in shown and "/9000" in shown, "the curve of the run")
    [run] = RunStore(project / "runs").list()
    assert run.plan["recipe"]["training"]["max_steps"] == 9000

    terminal.press("q")
    terminal.await_text("LEFT")
    terminal.close()
    assert run_status(run).active
    step = run_status(run).step or 0
    _await_status(run, lambda status: (status.step or 0) > step)

    terminal.open("--run", "latest")
    terminal.await_text("/9000", "loss")
    terminal.press("S")
    terminal.await_text(run.run_id, "(y)")
    terminal.press("y")
    _await_status(run, lambda status: status.state is State.STOPPED)
    terminal.await_text("stopped")
    terminal.press("R")
    terminal.await_text("Enter chooses")
    terminal.press("Enter")
    stopped_at = run_status(run).step or 0
    _await_status(run, lambda status: status.attempt == 2 and (status.step or 0) > stopped_at)
    terminal.await_text("running")
    terminal.press("K")
    terminal.await_text(run.run_id, "(y)")
    terminal.press("y")
    assert _await_status(run, lambda status: not status.active).state is State.KILLED
    terminal.await_text("killed")

    terminal.press("1")
    terminal.await_text("Recipes", "─ tiny ─", "q Quit")
    terminal.press("Enter")
    # The keys of the form are in the footer once it has the focus.
    terminal.await_text("q Quit")
    launch(terminal, "training.max_steps", "20")
    terminal.await_text("/20")
    second = RunStore(project / "runs").list()[0]
    _await_status(second, lambda status: not status.active)
    terminal.press("2")
    terminal.await_text("completed", "20/20", "killed", "/9000", "q Quit")
    terminal.press("Space", "j", "Space", "c")
    shown = terminal.await_text("baseline", "max_steps")
    assert run.run_id in shown
    assert second.run_id in shown
    terminal.press("q")
    terminal.await_text("LEFT")
