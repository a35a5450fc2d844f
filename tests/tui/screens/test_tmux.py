"""The whole way in a real terminal: choose, change, launch, watch, quit, come back, stop, resume, kill, compare."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexa.runs.state import RunStatus, State, run_status
from nexa.runs.store import Run, RunStore

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
SECONDS = 60.0


class Terminal:
    """A terminal of tmux that runs the UI."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"nexa-{uuid.uuid4().hex[:8]}"
        self._folder = folder

    def _tmux(self, *arguments: str) -> str:
        words = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def open(self, *arguments: str) -> None:
        """Start the UI in a new terminal."""
        command = shlex.join([sys.executable, "-m", "nexa.cli.main", "tui", *arguments])
        names = ("PYTHONPATH", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
        environment = [word for name in names for word in ("-e", f"{name}={os.environ[name]}")]
        size = ("-x", "120", "-y", "36")
        self._tmux(
            "new-session",
            "-d",
            *size,
            *environment,
            "-c",
            str(self._folder),
            f"unset COLUMNS LINES; {command}; echo LEFT; sleep 600",
        )

    def close(self) -> None:
        """End the terminal and what runs in it."""
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], check=False, capture_output=True)

    def press(self, *keys: str) -> None:
        """Type keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def press_until(self, key: str, text: str, *, otherwise: str) -> None:
        """Press a key whose effect depends on where the focus is just going; where that was too early, take it back."""
        deadline = time.monotonic() + SECONDS
        while text not in self.screen():
            assert time.monotonic() < deadline, self.screen()
            self.press(key)
            patience = time.monotonic() + 3.0
            while text not in self.screen() and time.monotonic() < patience:
                time.sleep(0.05)
            if text not in self.screen():
                self.press(otherwise)

    def write(self, text: str) -> None:
        """Type text."""
        self._tmux("send-keys", "-l", text)

    def screen(self) -> str:
        """What the terminal shows."""
        return self._tmux("capture-pane", "-p")

    def await_text(self, *texts: str) -> str:
        """Wait until the terminal shows all of `texts`."""
        return self.await_screen(lambda shown: all(text in shown for text in texts), ", ".join(texts))

    def await_screen(self, wanted: Callable[[str], bool], what: str) -> str:
        """Wait until the terminal shows what is wanted."""
        deadline = time.monotonic() + SECONDS
        while not wanted(shown := self.screen()):
            assert time.monotonic() < deadline, f"{what} is not shown:\n{shown}"
            time.sleep(0.05)
        return shown


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


def _is_writing(shown: str) -> bool:
    """Whether a text field has the focus: the footer then leaves out the letters that it takes for itself."""
    return "f5 Launch" in shown and "q Quit" not in shown


def _launch(terminal: Terminal, field: str, value: str) -> None:
    """On the Launch screen, with `tiny` found: change one field and start it."""
    terminal.press_until("/", "show fields that hold", otherwise="Escape")
    terminal.write(field)
    terminal.press("Enter")
    terminal.await_text("Enter edits", "q Quit")
    terminal.press("Enter")
    terminal.await_text("editing, Enter ends")
    terminal.press("End", "C-u")
    # Letters overtake keys that are bound to actions: they go to the field without the detour over the app.
    terminal.await_text(f"{field}=null")
    terminal.write(value)
    terminal.await_text(f"{field}={value}")
    terminal.press("Enter")
    terminal.await_text("q Quit")
    terminal.press("F5")


def test_from_recipe_to_comparison(project, terminal):
    terminal.open()
    terminal.await_text("1 Launch", "6 Plugins")
    terminal.press("1")
    terminal.await_text("Recipes", "quickstart")
    terminal.press("/")
    terminal.await_screen(_is_writing, "the search field")
    terminal.write("tiny")
    terminal.await_screen(lambda shown: "quickstart" not in shown and "byte-counts" in shown, "the form of tiny")
    terminal.press("Enter")
    # The keys of the form are in the footer once it has the focus.
    terminal.await_text("q Quit")
    _launch(terminal, "training.max_steps", "9000")
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
    _launch(terminal, "training.max_steps", "20")
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
