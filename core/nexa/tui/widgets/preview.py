"""What a form stands for: the recipe's YAML with its changes marked, and the equivalent command."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import zip_longest

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from nexa.text import sanitize


class Preview(Vertical):
    """YAML above, command below; scrolled to the first change."""

    _first_change: int | None = None

    def compose(self) -> ComposeResult:
        """The two parts."""
        with VerticalScroll(id="preview-yaml"):
            yield Static(id="preview-text", markup=False)
        with VerticalScroll(id="preview-command", can_focus=False) as box:
            box.border_title = "same on the command line"
            yield Static(id="preview-command-text", markup=False)

    def set_texts(self, before: str, after: str, command: str) -> None:
        """Show a recipe's text before and after the edits, and the command that launches the latter."""
        self.query_one("#preview-text", Static).update(marked_changes(sanitize(before), sanitize(after)))
        first = first_change(before, after)
        if first != self._first_change:
            self._first_change = first
            # Not at the very top: what it belongs to stands above it.
            place = max(0, (first or 0) - 3)
            self.query_one("#preview-yaml").scroll_to(y=place, animate=False)
        self.query_one("#preview-command-text", Static).update(sanitize(command))


def first_change(before: str, after: str) -> int | None:
    """Index of the first line that differs, None where none does."""
    lines = zip_longest(before.splitlines(), after.splitlines())
    return next((index for index, (old, new) in enumerate(lines) if old != new), None)


def marked_changes(before: str, after: str) -> Content:
    """The lines of `after` with those of `before` that are gone, each side marked and in its colour."""
    parts: list[tuple[str, str]] = []
    old, new = before.splitlines(), after.splitlines()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts += [part for line in new[c:d] for part in _yaml_line(line)]
        else:
            parts += [(f"- {line}\n", "$error") for line in old[a:b]]
            parts += [(f"+ {line}\n", "$success bold") for line in new[c:d]]
    return Content.assemble(*parts)


def _yaml_line(line: str) -> Iterator[tuple[str, str]]:
    """One unchanged line: keys stand out, comments step back."""
    body, mark, comment = ("", "", line) if line.lstrip().startswith("#") else line.partition(" #")
    key, colon, value = body.partition(":")
    is_key = bool(colon) and not key.lstrip().startswith(("-", '"', "'"))
    yield "  ", ""
    yield key if is_key else body, "$primary" if is_key else ""
    yield colon + value if is_key else "", ""
    yield f"{mark}{comment}\n", "$foreground-muted italic"
