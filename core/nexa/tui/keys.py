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
    from textual.binding import BindingType


@dataclass(frozen=True, kw_only=True)
class Key:
    """One binding: its id, the keys (comma-separated, Textual's names), its action, and what it does in words.

    label: in the footer, which leaves keys without one out. priority: whether it works before the
    focused widget sees the key.
    """

    id: str
    keys: str
    action: str
    text: str
    label: str = ""
    priority: bool = False


def _keys(scope: str, *rows: tuple[str, str, str, str, str]) -> tuple[Key, ...]:
    return tuple(
        Key(id=f"{scope}.{name}", keys=keys, action=action, text=text, label=label)
        for name, keys, action, text, label in rows
    )


KEYS: dict[str, tuple[Key, ...]] = {
    "global": (
        *_keys(
            "global",
            ("launch", "1", "open_screen('launch')", "Launch: choose a recipe and start it", ""),
            ("runs", "2", "open_screen('runs')", "Runs: all of them", ""),
            ("run", "3", "open_screen('run')", "Run: one of them", ""),
            ("compare", "4", "open_screen('compare')", "Compare runs", ""),
            ("cluster", "5", "open_screen('cluster')", "Cluster: machines and queue", ""),
            ("plugins", "6", "open_screen('plugins')", "Plugins", ""),
            ("help", "question_mark", "help", "This help", "Help"),
            ("filter", "slash", "screen.filter", "Filter or search", "Filter"),
            ("back", "escape", "screen.back", "One layer out", ""),
            ("maximise", "z", "maximise", "Give the focused part the whole screen", ""),
            ("theme", "T", "next_theme", "Next colour theme", ""),
            ("quit", "q", "quit", "Quit; runs go on", "Quit"),
        ),
        Key(id="global.palette", keys="ctrl+p", action="command_palette", text="Command palette", priority=True),
    ),
    "move": _keys(
        "move",
        ("open", "enter", "open", "Open", "Open"),
        ("down", "j", "cursor_down", "Down", ""),
        ("up", "k", "cursor_up", "Up", ""),
        ("left", "h", "cursor_left", "Left", ""),
        ("right", "l", "cursor_right", "Right", ""),
    ),
    "lists": _keys(
        "lists",
        ("select", "space", "select", "Select, or no longer", "Select"),
        ("sort", "s", "sort", "Other direction, then the next column", "Sort"),
        ("pin", "asterisk", "pin", "Keep on top, or no longer", "Pin"),
        ("compare", "c", "compare", "Compare the selected", "Compare"),
        ("copy", "y", "copy", "Copy the id", "Copy"),
    ),
    "launch": _keys(
        "launch",
        ("edit", "e", "edit", "Edit the recipe in $EDITOR", "Edit"),
        ("plan", "p", "plan", "Plan: what a launch would do", "Plan"),
        ("launch", "f5", "launch", "Launch", "Launch"),
        ("undo", "u", "undo", "Undo this field", "Undo"),
        ("save", "w", "save", "Save as a new recipe file", "Save as"),
        ("copy", "y", "copy", "Copy the equivalent command", "Copy"),
        ("changed", "d", "changed_only", "Show changed fields only, or all", "Changed"),
        ("preview", "v", "preview", "Preview in place of the form", ""),
    ),
    "charts": _keys(
        "charts",
        ("zoom-in", "plus,equals_sign", "zoom(-1)", "Zoom in", "Zoom"),
        ("zoom-out", "minus", "zoom(1)", "Zoom out", ""),
        ("left", "comma", "pan(-1)", "Pan left", ""),
        ("right", "full_stop", "pan(1)", "Pan right", ""),
        ("reset", "0", "reset", "The whole run again", "Reset"),
        ("rougher", "left_square_bracket", "smooth(-1)", "Less smoothing", ""),
        ("smoother", "right_square_bracket", "smooth(1)", "More smoothing", "Smooth"),
        ("log-y", "L", "log_y", "Logarithmic Y, or linear", "Log-Y"),
        ("axis", "x", "axis", "X is steps, time or tokens", "X axis"),
        ("inspect", "i", "inspect", "Inspect values; arrows move", "Inspect"),
    ),
    "log": _keys(
        "log",
        ("follow", "f", "follow", "Follow the end, or no longer", "Follow"),
        ("next", "n", "match(1)", "Next match", "Match"),
        ("previous", "N", "match(-1)", "Previous match", ""),
        ("begin", "g", "begin", "Begin of the log", ""),
        ("end", "G", "end", "End of the log", "End"),
        ("wrap", "w", "wrap", "Wrap long lines, or not", "Wrap"),
        ("level", "m", "level", "All lines, warnings and worse, errors", "Level"),
        ("error", "e", "next_error", "Next error or traceback", "Error"),
        ("source", "o", "next_source", "Next log file", "Other log"),
    ),
    "run": _keys(
        "run",
        ("stop", "S", "stop", "Stop: save a checkpoint, then end", "Stop"),
        ("kill", "K", "kill", "Kill at once", "Kill"),
        ("resume", "R", "resume", "Resume from a checkpoint", "Resume"),
        ("requeue", "Q", "requeue", "Requeue its job", ""),
        ("verify", "v", "verify", "Verify its checkpoints", "Verify"),
    ),
    "tabs": _keys(
        "tabs",
        ("previous", "left_curly_bracket", "tab(-1)", "Previous tab", ""),
        ("next", "t,right_curly_bracket", "tab(1)", "Next tab", "Tab"),
    ),
    "compare": _keys(
        "compare",
        ("baseline", "b", "baseline", "Next baseline", "Baseline"),
        ("metric", "m", "metric", "Next metric", "Metric"),
        ("export", "w", "export", "Write the curves as CSV", "CSV"),
    ),
    "cluster": _keys("cluster", ("scheduler", "p", "next_scheduler", "Next scheduler", "Scheduler")),
    "plugins": _keys("plugins", ("reload", "r", "reload", "Look again", "Reload")),
}
"""Keys by scope."""

HEADINGS = {
    "global": "Everywhere",
    "move": "Moving",
    "lists": "Lists",
    "launch": "Launch",
    "charts": "Charts",
    "log": "Log",
    "run": "Runs",
    "tabs": "Tabs",
    "compare": "Compare",
    "cluster": "Cluster",
    "plugins": "Plugins",
}
"""What help calls each scope."""


def bindings(*scopes: str) -> list[BindingType]:
    """The Textual bindings of some scopes, for a widget's or screen's `BINDINGS`."""
    from textual.binding import Binding

    return [
        Binding(
            key.keys,
            key.action,
            key.label or key.text,
            show=bool(key.label),
            id=key.id,
            priority=key.priority,
            tooltip=key.text,
        )
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
