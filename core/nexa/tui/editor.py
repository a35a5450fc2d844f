"""The user's own editor, on a text of the UI."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from textual.app import App

_FALLBACKS = ("nano", "vim", "vi")


def edit_text(app: App[None], text: str, *, name: str) -> str | None:
    """Suspend the UI, open `text` as a file called `name` in $VISUAL or $EDITOR, and return what is saved.

    Returns None when nothing was changed. Raises UserError when there is no editor, it fails, or the
    UI has no terminal to give away.
    """
    from textual.app import SuspendNotSupported

    command = _editor()
    with tempfile.TemporaryDirectory(prefix="nexa-edit-") as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        try:
            with app.suspend():
                ended = subprocess.run([*command, str(file)], check=False)
        except SuspendNotSupported:
            raise UserError(
                "an editor needs a terminal, which a browser is not", hint="edit the fields in the form"
            ) from None
        except OSError as error:
            raise UserError(
                f"the editor {command[0]} can't be started: {error.strerror or error}", hint=_HINT
            ) from None
        if ended.returncode != 0:
            raise UserError(f"the editor {command[0]} ended with exit code {ended.returncode}; nothing was changed")
        try:
            saved = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"what the editor saved can't be read: {error}") from None
    return saved if saved != text else None


_HINT = "choose one: export EDITOR=nano"


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if os.environ.get(variable, "").strip():
            return shlex.split(os.environ[variable])
    found = next((path for name in _FALLBACKS if (path := shutil.which(name))), None)
    if found is None:
        raise UserError("there is no editor", hint=_HINT)
    return [found]
