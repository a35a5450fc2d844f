"""Data files on this machine: which of a folder count, and the hash that names their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from nexa.errors import DataError
from nexa.prepared import hash_file
from nexa_torch.data.readers import SUFFIXES


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files below a folder sorted by relative path, hidden ones left out.

    Raises DataError where there is none.
    """
    if path.is_file():
        return [path]
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.name.endswith(SUFFIXES)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise DataError(f"{path}: the folder holds no data file", hint=f"known endings: {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def hash_data(path: Path, hash_of: Callable[[Path], str] = hash_file) -> str:
    """SHA-256 in hex: of a file's bytes, or of a folder's sorted relative paths and file hashes.

    hash_of: hashes one file. Raises DataError where one can't be read.
    """
    try:
        if path.is_file():
            return hash_of(path)
        lines = [f"{hash_of(file)}  {file.relative_to(path).as_posix()}\n" for file in data_files(path)]
    except OSError as error:
        raise DataError(f"{error.filename or path}: can't be read: {error.strerror}") from None
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_hash(uri: str, found: str, expected: str | None) -> None:
    """Raise DataError unless the data of `uri` has the expected SHA-256; None expects nothing."""
    if expected is not None and found != expected:
        raise DataError(
            f"{uri}: the data has SHA-256 {found}, but data.expected_dataset_hash is {expected}",
            hint="it is not the data this recipe was written for; get that version, "
            "or take this one: data.expected_dataset_hash=null",
        )
