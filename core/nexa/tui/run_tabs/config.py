"""The config tab: the run's resolved recipe, and where it differs from its file and from the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from nexa.errors import NexaError
from nexa.runs.changes import recipe_changes
from nexa.runs.store import Run
from nexa.text import sanitize, sanitize_line
from nexa.tui.themes import colour_of


@dataclass(frozen=True)
class ConfigText:
    """The recipe as YAML, and its fields that differ from the recipe file as it is now; safe to draw."""

    yaml: str
    changes: Mapping[str, tuple[str, str]]
    command: str = ""


def read_config(run: Run) -> ConfigText:
    """Read a run's recipe; what can't be read is said in its place."""
    try:
        text = (run.path / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        text = f"# recipe.yaml can't be read: {error.strerror}\n"
    try:
        changes = recipe_changes(run)
        command = " ".join(str(word) for word in run.document.get("argv") or [])
    except (NexaError, KeyError, TypeError, AttributeError):
        changes, command = {}, ""
    shown = {sanitize_line(path): (_value(there), _value(here)) for path, (there, here) in changes.items()}
    return ConfigText(sanitize(text), shown, sanitize_line(command))


def _value(value: Any) -> str:
    return "(unset)" if value is None else sanitize_line(json.dumps(value, ensure_ascii=False))


class ConfigTab(VerticalScroll, can_focus=True):
    """The command, what differs from the file, the whole recipe."""

    ALLOW_MAXIMIZE = True

    DEFAULT_CSS = """
    ConfigTab { padding: 0 1; scrollbar-size-vertical: 1; }
    """

    _config: ConfigText | None = None

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static("")

    def on_mount(self) -> None:
        """Follow changes of the theme."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._write())

    def show(self, config: ConfigText) -> None:
        """Show a run's recipe."""
        self._config = config
        self._write()

    def _write(self) -> None:
        config = self._config
        if config is None:
            return
        muted, accent = colour_of(self.app, "text-muted"), colour_of(self.app, "accent")
        text = Text()
        if config.command:
            text.append("launched by  ", muted).append(config.command + "\n\n", "bold")
        if config.changes:
            text.append("differs from its recipe file as it is now\n", f"bold {accent}")
            for path, (there, here) in config.changes.items():
                text.append(f"  {path}  ")
                text.append(there, colour_of(self.app, "error")).append(" → ", muted)
                text.append(here + "\n", colour_of(self.app, "success"))
            text.append("\n")
        for line in config.yaml.splitlines():
            self._append_yaml(text, line)
        self.query_one(Static).update(text)

    def _append_yaml(self, text: Text, line: str) -> None:
        """One line of YAML with its key and comment told apart."""
        body, mark, comment = line.partition(" #") if not line.lstrip().startswith("#") else ("", line, "")
        key, colon, value = body.partition(":")
        if colon and " " not in key.strip().lstrip("- "):
            text.append(key + colon, colour_of(self.app, "primary"))
            text.append(value)
        else:
            text.append(body)
        text.append(mark + comment + "\n", colour_of(self.app, "text-muted"))
