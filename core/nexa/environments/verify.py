"""Whether an environment is still what was built: every file of every package, and nothing beside."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

from nexa.environments.build import distributions, site_folders
from nexa.environments.interpreters import look_at
from nexa.environments.requirements import normal_name
from nexa.environments.store import Environment

_BLOCK = 1 << 20


def changes(environment: Environment) -> Iterator[str]:
    """Yield in words what is no longer as it was built; nothing where all is well.

    Reads every file that packages installed. Compiled caches (__pycache__) are not looked at: Python makes
    them anew.
    """
    interpreter = look_at(environment.interpreter)
    if interpreter is None:
        yield f"its Python {environment.interpreter} does not start"
    elif interpreter.version != environment.python:
        yield f"its Python is {interpreter.version}, it was built with {environment.python}"
    installed = {normal_name(dist.metadata["Name"]): dist for dist in distributions(environment.path)}
    known: set[Path] = set()
    for name, package in environment.packages.items():
        distribution = installed.pop(name, None)
        if distribution is None:
            yield f"{name} {package.version} is gone"
            continue
        if distribution.version != package.version:
            yield f"{name} is {distribution.version}, it was {package.version}"
        record = distribution.read_text("RECORD") or ""
        if hashlib.sha256(record.encode()).hexdigest() != package.record:
            yield f"{name}: its list of files was changed"
        root = Path(str(distribution.locate_file("")))
        known |= {_plain(root / row[0]) for row in csv.reader(record.splitlines()) if row}
        yield from (f"{name}: {problem}" for problem in _changed_files(root, record))
    for name, distribution in installed.items():
        yield f"{name} {distribution.version} was added"
        record = distribution.read_text("RECORD") or ""
        root = Path(str(distribution.locate_file("")))
        known |= {_plain(root / row[0]) for row in csv.reader(record.splitlines()) if row}
    yield from _strangers(environment.path, known)


def _changed_files(root: Path, record: str) -> Iterator[str]:
    """Files of a package that are gone or hold something else, by its RECORD."""
    for row in csv.reader(record.splitlines()):
        if len(row) < 2 or not row[1]:
            continue
        path, (algorithm, _, wanted) = root / row[0], row[1].partition("=")
        try:
            if _digest(path, algorithm) != wanted:
                yield f"{row[0]} was changed"
        except FileNotFoundError:
            yield f"{row[0]} is gone"
        except OSError as error:
            yield f"{row[0]} can't be read: {error.strerror or error}"


def _digest(path: Path, algorithm: str) -> str:
    """Digest as RECORD files write it: URL-safe base64 without padding."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def _strangers(folder: Path, known: set[Path]) -> Iterator[str]:
    """Files among the packages that no package owns; each can change what is imported."""
    for site in site_folders(folder):
        for path in sorted(site.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts or path in known:
                continue
            if _plain(path) not in known:
                yield f"{path.relative_to(site)} was added"


def _plain(path: Path) -> Path:
    """The path without `..`, which RECORD files use for scripts."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)
