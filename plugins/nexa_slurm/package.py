"""This machine's code as one archive for a cluster that does not see it: named after its content, sent once.

It holds Nexa and the plugins of a run, as modules and with their entry points, so that the cluster's
Python needs the libraries that they use, but not them. Standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from nexa.errors import UserError
from nexa.hookspecs import ENTRY_POINT_GROUP

_SKIPPED = frozenset({"__pycache__", ".git", ".mypy_cache"})
_METADATA = ("METADATA", "entry_points.txt")


@dataclass(frozen=True, kw_only=True)
class CodePackage:
    """An uncompressed tar of code; digest: its SHA-256 in hexadecimal."""

    archive: bytes
    digest: str

    def folder(self, root: str) -> str:
        """Where it lies unpacked below a folder of the cluster."""
        return str(PurePosixPath(root) / f"nexa-{self.digest[:16]}")


@cache
def package_code(targets: tuple[str, ...]) -> CodePackage:
    """The package of Nexa and of the plugins that `targets` ("module:attribute") come from.

    The same code gives the same bytes, whatever its files' times and owners. Raises UserError where a
    module has no files to copy.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(_files(targets).items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    content = buffer.getvalue()
    return CodePackage(archive=content, digest=hashlib.sha256(content).hexdigest())


def _files(targets: Sequence[str]) -> Mapping[str, bytes]:
    named = {"nexa", "nexa_slurm", *(_top_level(target.partition(":")[0]) for target in targets)}
    points = [point for point in metadata.entry_points(group=ENTRY_POINT_GROUP) if point.dist is not None]
    chosen = {point.dist.name for point in points if point.dist and _top_level(point.module) in named}
    points = [point for point in points if point.dist and point.dist.name in chosen]
    packages = named | {_top_level(point.module) for point in points}
    files = {name: path.read_bytes() for package in sorted(packages) for name, path in _modules(package)}
    return {**files, **{name: text for point in points if point.dist for name, text in _metadata(point.dist)}}


def _top_level(module: str) -> str:
    return module.partition(".")[0]


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """Files of a top-level package or module: name in the archive, and where it is."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(
            f"the code of {package} can't be packaged: it has no files",
            hint="install it on the cluster, and leave slurm.code_folder away",
        )
    if not spec.submodule_search_locations:
        yield Path(spec.origin).name, Path(spec.origin)
        return
    root = Path(spec.origin).parent
    for path in root.rglob("*"):
        inside = path.relative_to(root.parent)
        if path.is_file() and not _SKIPPED & set(inside.parts):
            yield inside.as_posix(), path


def _metadata(distribution: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """What makes a distribution's plugins known where its code lies on the path."""
    folder = f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
    for name in _METADATA:
        text = distribution.read_text(name)
        if text is not None:
            yield f"{folder}/{name}", text.encode()
