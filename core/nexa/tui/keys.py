"""Every key of the UI in one table: what help, the palette, the footer and the documentation show.

A scope is where keys work: "global" everywhere, others on a screen or in a view of it. Users remap
keys by id in `[tui.keys]` of nexa.toml, such as `"run.stop" = "ctrl+s"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from textual.binding import Binding


@dataclass(frozen=True, kw_only=True)
class Key:
    """One binding: its id, the keys (comma-separated, Textual's names), its action, and what it does in words.

    shown: whether the footer shows it. priority: whether it works before the focused widget sees the key.
    """

    id: str
    keys: str
    action: str
    text: str
    shown: bool = True
    priority: bool = False


def _keys(scope: str, *rows: tuple[str, str, str, str, bool]) -> tuple[Key, ...]:
    return tuple(
        Key(id=f"{scope}.{name}", keys=keys, action=action, text=text, shown=shown)
        for name, keys, action, text, shown in rows
    )


KEYS: dict[str, tuple[Key, ...]] = {
    "global": (
        *_keys(
            "global",
            ("launch", "1", "open_screen('launch')", "Launch", False),
            ("runs", "2", "open_screen('runs')", "Runs", False),
            ("run", "3", "open_screen('run')", "Run", False),
            ("compare", "4", "open_screen('compare')", "Compare", False),
            ("cluster", "5", "open_screen('cluster')", "Cluster", False),
            ("plugins", "6", "open_screen('plugins')", "Plugins", False),
            ("help", "question_mark", "help", "Help", True),
            ("filter", "slash", "filter", "Filter or search", True),
            ("back", "escape", "back", "One layer out", False),
            ("maximise", "z", "maximise", "Maximise the focused part", False),
            ("theme", "T", "next_theme", "Next theme", False),
            ("quit", "q", "quit", "Quit", True),
        ),
        Key(
            id="global.palette",
            keys="ctrl+p",
            action="command_palette",
            text="Command palette",
            shown=False,
            priority=True,
        ),
    ),
    "move": _keys(
        "move",
        ("open", "enter", "open", "Open", True),
        ("down", "j", "cursor_down", "Down", False),
        ("up", "k", "cursor_up", "Up", False),
        ("left", "h", "cursor_left", "Left", False),
        ("right", "l", "cursor_right", "Right", False),
    ),
    "lists": _keys(
        "lists",
        ("sort", "s", "sort", "Sort by the next column", True),
        ("select", "space", "select", "Select", True),
        ("pin", "asterisk", "pin", "Pin to the top", True),
        ("compare", "c", "compare", "Compare the selected", True),
        ("copy", "y", "copy", "Copy", True),
    ),
    "launch": _keys(
        "launch",
        ("edit", "e", "edit", "Edit in $EDITOR", True),
        ("plan", "p", "plan", "Plan", True),
        ("launch", "f5", "launch", "Launch", True),
        ("undo", "u", "undo", "Undo this field", True),
        ("copy", "y", "copy", "Copy the command", True),
        ("changed", "d", "changed_only", "Changed fields only", True),
        ("preview", "v", "preview", "Preview or form", False),
    ),
    "charts": _keys(
        "charts",
        ("zoom-in", "plus,equals_sign", "zoom(-1)", "Zoom in", True),
        ("zoom-out", "minus", "zoom(1)", "Zoom out", False),
        ("left", "comma", "pan(-1)", "Pan left", False),
        ("right", "full_stop", "pan(1)", "Pan right", False),
        ("reset", "0", "reset", "Whole run", True),
        ("smoother", "right_square_bracket", "smooth(1)", "More smoothing", False),
        ("rougher", "left_square_bracket", "smooth(-1)", "Less smoothing", True),
        ("log-y", "L", "log_y", "Logarithmic Y", True),
        ("axis", "x", "axis", "X: step, time, tokens", True),
        ("inspect", "i", "inspect", "Inspect values", True),
    ),
    "log": _keys(
        "log",
        ("follow", "f", "follow", "Follow", True),
        ("next", "n", "match(1)", "Next match", True),
        ("previous", "N", "match(-1)", "Previous match", False),
        ("end", "G", "end", "End", False),
        ("begin", "g", "begin", "Begin", False),
        ("wrap", "w", "wrap", "Wrap", True),
        ("level", "m", "level", "Level shown", True),
        ("error", "e", "next_error", "Next error", True),
        ("source", "o", "next_source", "Next log file", True),
    ),
    "run": _keys(
        "run",
        ("stop", "S", "stop", "Stop", True),
        ("kill", "K", "kill", "Kill", True),
        ("resume", "R", "resume", "Resume", True),
        ("requeue", "Q", "requeue", "Requeue", False),
        ("verify", "v", "verify", "Verify", False),
        ("previous-tab", "left_curly_bracket", "tab(-1)", "Previous tab", False),
        ("next-tab", "right_curly_bracket", "tab(1)", "Next tab", False),
    ),
    "compare": _keys(
        "compare",
        ("baseline", "b", "baseline", "Next baseline", True),
        ("metric", "m", "metric", "Next metric", True),
        ("export", "w", "export", "Write CSV", True),
    ),
    "cluster": _keys("cluster", ("scheduler", "p", "next_scheduler", "Next scheduler", True)),
    "plugins": _keys("plugins", ("reload", "r", "reload", "Read again", True)),
}
"""Keys by scope."""

HEADINGS = {
    "global": "Everywhere",
    "move": "Moving",
    "lists": "Lists",
    "launch": "Launch",
    "charts": "Charts",
    "log": "Log",
    "run": "Run",
    "compare": "Compare",
    "cluster": "Cluster",
    "plugins": "Plugins",
}
"""What help calls each scope."""


def bindings(*scopes: str) -> list[Binding]:
    """The Textual bindings of some scopes, for a widget's or screen's `BINDINGS`."""
    from textual.binding import Binding

    return [
        Binding(key.keys, key.action, key.text, show=key.shown, id=key.id, priority=key.priority)
        for scope in scopes
        for key in KEYS[scope]
    ]


def all_keys() -> Iterator[Key]:
    """Every key of every scope."""
    for keys in KEYS.values():
        yield from keys


def check_keymap(keymap: Mapping[str, str]) -> dict[str, str]:
    """Return a user's keymap. Raises UserError naming an unknown id, or two ids of a scope on one key."""
    known = {key.id: key for key in all_keys()}
    for name in keymap:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "nexa tui, then ? lists every key with its id"
            raise UserError(f"[tui.keys]: there is no key {name!r}", hint=hint)
    for scope, keys in KEYS.items():
        taken: dict[str, str] = {}
        for key in (*keys, *(KEYS["global"] if scope != "global" else ())):
            for name in (part.strip() for part in keymap.get(key.id, key.keys).split(",")):
                if name in taken and (key.id in keymap or taken[name] in keymap):
                    raise UserError(
                        f"[tui.keys]: {taken[name]} and {key.id} are both on {name!r}", hint="choose another key"
                    )
                taken[name] = key.id
    return dict(keymap)
