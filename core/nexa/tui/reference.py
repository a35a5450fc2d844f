"""The reference page of the terminal UI, made from its table of keys: `python -m nexa.tui.reference`."""

from __future__ import annotations

from collections.abc import Iterator

from nexa.tui.keys import HEADINGS, KEYS
from nexa.tui.screens import SCREENS

_HEADER = """\
# Terminal UI

<!-- Made by `python -m nexa.tui.reference`; remake it after changing a key. -->

`nexa tui` opens it; its options are in the [command line reference](cli.md#nexa-tui), a first walk in the
[tutorial](../tutorial/terminal-ui.md). It reads run directories and asks schedulers, so runs started elsewhere, by
others or before it was opened show like its own. Closing it ends no run.

The mouse works too: click tabs, rows and charts, turn the wheel. `?` lists the keys that work where you are,
`Ctrl+P` finds actions, recipes and runs by name.
"""

_FOOTER = """\
## Other keys

Any key can be moved to another by its id, in `nexa.toml` or your own `config.toml`
([settings](settings.md)); unknown ids and two actions on one key are refused when the UI opens:

```toml
[tui.keys]
"run.stop" = "ctrl+s"
"launch.launch" = "f5,ctrl+l"
```

## What it remembers

The theme, pinned runs, and how each run's charts were looked at are kept in `$XDG_STATE_HOME/nexa/tui.json`, usually
`~/.local/state/nexa/tui.json`. Deleting it loses nothing else. Edits of recipes are kept until the UI is closed.

## Terminals

It works from 80×24 up, over SSH, and in tmux. `--ascii` draws with ASCII characters only; `NO_COLOR=1` leaves out
colours, and no state is told by colour alone. `T` goes through a dark, a light, a high-contrast and a colour-blind safe
theme.
Text from recipes, logs, plugins and schedulers is shown with its control characters made visible, never obeyed.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEADER, *_screens(), *_keys(), _FOOTER]).rstrip() + "\n"


def _screens() -> Iterator[str]:
    yield "## Screens\n\n| Key | Screen | |\n|---|---|---|"
    yield from (f"| `{number}` | {entry.title} | {entry.summary} |" for number, entry in enumerate(SCREENS, 1))
    yield ""


def _keys() -> Iterator[str]:
    yield "## Keys\n"
    for scope, keys in KEYS.items():
        where = [entry.title for entry in SCREENS if scope in entry.scopes]
        yield f"### {HEADINGS[scope]}\n"
        if where and where != [HEADINGS[scope]]:
            yield f"On: {', '.join(where)}.\n"
        yield "| Key | Does | Id |\n|---|---|---|"
        for key in keys:
            names = " ".join(f"`{_shown(name.strip())}`" for name in key.keys.split(","))
            yield f"| {names} | {key.text} | `{key.id}` |"
        yield ""


def _shown(name: str) -> str:
    """A key as it is printed on a keyboard."""
    from textual.keys import format_key

    modifier, plus, key = name.rpartition("+")
    # format_key draws arrows and Enter as symbols, which a reader of a page can't search for.
    word = {"enter": "Enter", "space": "Space", "escape": "Esc"}.get(key) or format_key(key).replace("|", "\\|")
    whole = plus or (len(word) > 1 and word[1:].isdigit())
    return f"{modifier.title()}{plus}{word.upper() if whole else word}"


if __name__ == "__main__":
    print(markdown(), end="")
