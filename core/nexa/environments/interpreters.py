"""Finding a Python of a wanted version on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

_MINORS = range(10, 20)
_PROBE = "import sys, platform; print(platform.python_version()); print(sys.base_prefix)"
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Interpreter:
    """A Python that exists here: where, and its version, such as "3.11.7"."""

    path: Path
    version: str


def find_interpreter(wanted: SpecifierSet, *, asker: str, named: str | None = None) -> Interpreter:
    """The Python to build with: the running one where it is wanted, else the newest one that is found here.

    named: a version ("3.12"), a program or a path, where a person chose. Raises UserError where there is none.
    """
    if named is not None:
        chosen = _named(named)
        if not wanted.contains(chosen.version, prereleases=True):
            raise UserError(f"{chosen.path} is Python {chosen.version}; {asker} needs {wanted}")
        return chosen
    found: dict[str, Interpreter] = {}
    for path in _candidates():
        interpreter = look_at(path)
        if interpreter is None:
            continue
        if wanted.contains(interpreter.version, prereleases=True):
            return interpreter
        found.setdefault(interpreter.version, interpreter)
    raise UserError(
        f"{asker} needs Python {wanted}; this machine has {', '.join(found) or 'none that answers'}",
        hint="install one and repeat, or name it: --python /path/to/python; with uv: uv python install 3.12",
    )


def look_at(path: Path) -> Interpreter | None:
    """Ask a program for its version; None where it is no Python that answers."""
    try:
        answer = subprocess.run(
            [str(path), "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.splitlines()
    return Interpreter(path, lines[0]) if len(lines) == 2 else None


def _named(name: str) -> Interpreter:
    program = shutil.which(f"python{name}" if name[0].isdigit() else name)
    of_version = [path for path in _candidates() if path.name == f"python{name}" or f"/{name}." in str(path)]
    for path in ([Path(program)] if program else []) + of_version:
        interpreter = look_at(path)
        if interpreter is not None:
            return interpreter
    what = f"no Python {name} on this machine" if name[0].isdigit() else f"{name} is no Python that answers"
    raise UserError(
        what,
        hint="install it, or name one: --python /path/to/python; with uv: uv python install 3.12",
    )


def _candidates() -> Iterator[Path]:
    """The running Python's own base, then those on PATH, then those of pyenv and uv; the newest first."""
    # A virtual environment made from another would point at its links, not at the Python itself.
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    yield base if base.exists() else Path(sys.executable)
    for minor in reversed(_MINORS):
        if (program := shutil.which(f"python3.{minor}")) is not None:
            yield Path(program)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    for folder in (pyenv, data / "uv" / "python"):
        if folder.is_dir():
            yield from sorted(folder.glob("*/bin/python3.[0-9][0-9]"), reverse=True)
