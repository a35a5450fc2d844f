"""Files that several processes share: whole or absent, never half-written, and on the disk.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from nexa.errors import UserError


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`; None when the file is absent, unreadable or not an object.

    Such files are written whole by the functions below, so an unreadable one is damage that the
    caller treats as absence.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` to `path`, replacing it in one step. Raises OSError."""
    temporary = _write_temporary(path, document)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json_once(path: Path, document: Mapping[str, Any]) -> bool:
    """Write `document` to `path` unless it exists; False when another writer was first.

    Of any number of processes that call this at once, exactly one gets True. Raises OSError.
    """
    temporary = _write_temporary(path, document)
    try:
        return _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 that takes the place of `path` where the block succeeds, and else leaves it as it is.

    Raises UserError where it can't be written, or `path` is a device, a pipe or a folder, which nothing may replace.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"can't write {path}: it is no regular file", hint="name a file to write")
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> bool:
    """Give `source` the name `target` too, unless that exists."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        # File systems without hard links: creating the name exclusively decides who wins, and
        # the content follows in one step.
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        source.replace(target)
    return True


def _write_temporary(path: Path, document: Mapping[str, Any]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(_encode(document))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"


class ReservedFile:
    """A JSON file whose disk space is taken early, so that it can be written on a full disk.

    The reserve is a hidden file of `size` bytes beside `path`; `write_once` fills it in place and
    gives it its name. A document longer than `size` is written only as far as space allows.
    """

    def __init__(self, path: Path, *, size: int = 16384) -> None:
        self.path = path
        self._size = size
        self._reserve = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}-reserve")
        with self._reserve.open("wb") as file:
            file.write(b" " * size)
            file.flush()
            os.fsync(file.fileno())

    def write_once(self, document: Mapping[str, Any]) -> bool:
        """Write `document` unless `path` exists; False when another writer was first. Raises OSError."""
        data = _encode(document).ljust(self._size)
        descriptor = os.open(self._reserve, os.O_WRONLY)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            return _link(self._reserve, self.path)
        finally:
            self.release()

    def release(self) -> None:
        """Give the space back when the file is not needed."""
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
