"""The folder that is put on the path of a worker in another environment: Nexa's part of it, and the plugins'.

It holds copies, named after their content, so that a run that waits in a queue starts with the code it was
planned with, and a container sees nothing else of the launching environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import nexa
from nexa.errors import PluginError

CODE = "code"
"""Name of the folder of these folders, beside the environments."""
# What no worker imports, and what Python makes anew.
_LEFT_OUT = ("__pycache__", "nexa/tui", "nexa/cli")


def code_folder(root: Path, factories: Iterable[str], distributions: Iterable[str]) -> Path:
    """Where the code for a run's plugins is, or will be once `place_code` was called. Reads, writes nothing.

    factories: "module:attribute" of each plugin object that the worker makes. distributions: whose metadata
    goes along, so that the worker knows versions and finds entry points. Raises PluginError for a plugin
    that is no package on disk.
    """
    digest = hashlib.sha256()
    for name, path in _files(factories, distributions):
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return root / CODE / digest.hexdigest()[:32]


def place_code(folder: Path, factories: Iterable[str], distributions: Iterable[str]) -> None:
    """Make the folder that `code_folder` named, unless it is there. Raises OSError."""
    if folder.is_dir():
        with contextlib.suppress(OSError):
            # Young code is not collected before the run that is about to be made has claimed it.
            os.utime(folder)
        return
    staging = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        for name, path in _files(factories, distributions):
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        staging.rename(folder)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not folder.is_dir():
            raise


def _files(factories: Iterable[str], distributions: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Every file of the folder, by its name there, in a fixed order."""
    packages = {"nexa": Path(nexa.__file__).parent}
    for factory in factories:
        name = factory.partition(":")[0].partition(".")[0]
        packages.setdefault(name, _place_of(name))
    for name, place in sorted(packages.items()):
        if place.is_dir():
            yield from sorted(_walk(place, name))
        else:
            yield place.name, place
    yield from _metadata(distributions)


def _walk(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for entry in os.scandir(folder):
        inner = f"{name}/{entry.name}"
        if entry.name in _LEFT_OUT or inner in _LEFT_OUT:
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), inner)
        elif not entry.name.endswith(".pyc"):
            yield inner, Path(entry.path)


def _place_of(name: str) -> Path:
    """Folder of a package, or file of a module."""
    spec = find_spec(name)
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec is not None else []
    found = next((Path(place) for place in places if place and Path(place).exists()), None)
    if found is None or found.suffix not in ("", ".py"):
        raise PluginError(
            f"the plugin module {name} is no Python source on disk, so that it can't be given to another environment",
            hint="install it as plain files, or run it in the current environment: environment=current",
        )
    return found


def _metadata(distributions: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in sorted(set(distributions)):
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue
        for file in sorted(files, key=str):
            if file.name in ("METADATA", "entry_points.txt") and file.parent.name.endswith(".dist-info"):
                yield f"{file.parent.name}/{file.name}", Path(str(file.locate()))
