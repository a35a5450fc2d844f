"""Places on this machine: files shipped in Python packages, and the user's cache."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path, PurePosixPath

from nexa.errors import DataError

PACKAGE_SCHEME = "pkg:"


def cache_root() -> Path:
    """Folder for what can be made again: $NEXA_CACHE_DIR, else `nexa` in the user's cache folder."""
    own = os.environ.get("NEXA_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexa"


def package_file(uri: str) -> Path:
    """Path of `pkg:PACKAGE/FILE`, found without importing the package.

    Raises DataError where the package is not installed or does not hold the file.
    """
    package, _, name = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or not name or ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise DataError(
            f"{uri!r} is not of the form pkg:PACKAGE/FILE", hint="PACKAGE is an import name, such as my_data"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{uri}: the Python package {package!r} is not installed here",
            hint=f"type: pip install {package.replace('_', '-')}",
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    found = sorted(p.name for folder in folders for p in folder.iterdir() if p.is_file() and p.suffix != ".py")
    raise DataError(
        f"{uri}: the package has no such file", hint=f"it holds: {', '.join(found[:10]) or 'no data files'}"
    )


def local_path(name: str) -> Path:
    """A path as written in a recipe: `pkg:` resolved, `~` expanded; it need not exist."""
    return package_file(name) if name.startswith(PACKAGE_SCHEME) else Path(name).expanduser()
