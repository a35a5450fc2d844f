"""A terminal of tmux with the UI in it, typed into and read as a person would."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS = 120.0
"""The longest that something is waited for."""

TMUX = shutil.which("tmux")
_PASSED_ON = ("PYTHONPATH", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")


class Terminal:
    """A terminal of tmux that runs the UI."""

    def __init__(self, folder: Path, *, variables: Sequence[str] = ()) -> None:
        """variables: names of environment variables that the UI gets besides those of every test."""
        self._variables = (*_PASSED_ON, *variables)
        self._socket = f"nexa-{uuid.uuid4().hex[:8]}"
        self._folder = folder

    def _tmux(self, *arguments: str) -> str:
        words = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def open(self, *arguments: str) -> None:
        """Start the UI in a new terminal."""
        command = shlex.join([sys.executable, "-m", "nexa.cli.main", "tui", *arguments])
        environment = [word for name in self._variables for word in ("-e", f"{name}={os.environ[name]}")]
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


def is_writing(shown: str) -> bool:
    """Whether a text field has the focus: the footer then leaves out the letters that it takes for itself."""
    return "f5 Launch" in shown and "q Quit" not in shown


def open_recipe(terminal: Terminal, name: str, *, words: str, hidden: str) -> None:
    """Find a recipe on the Launch screen and open its form, which shows `words`; the search takes `hidden` away."""
    terminal.press("1")
    terminal.await_text("Recipes", hidden)
    terminal.press("/")
    terminal.await_screen(is_writing, "the search field")
    terminal.write(name)
    terminal.await_screen(lambda shown: hidden not in shown and words in shown, f"the form of {name}")
    terminal.press("Enter")
    # The keys of the form are in the footer once it has the focus.
    terminal.await_text("q Quit")


def launch(terminal: Terminal, field: str, value: str) -> None:
    """With a recipe's form open: change one field and start it."""
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
