"""Download data from object stores (any fsspec scheme) into a cache folder, whole or not at all."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nexa.errors import DataError
from nexa.files import sync
from nexa_torch.data.files import hash_data, require_hash
from nexa_torch.data.readers import SUFFIXES

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}


def download(uri: str, cache: Path, *, expected_hash: str | None = None) -> Path:
    """Local file or folder with the data of `uri`.

    A copy is kept for each state of the remote data (its sizes, times and entity tags), so that changed data
    is fetched again. A copy fetched for the same `expected_hash` is used without asking the remote side,
    so that nodes without internet access can train. Raises DataError where the data can't be fetched.
    """
    home = cache / "data" / hashlib.sha256(uri.encode()).hexdigest()[:20]
    pinned = home / f"sha256-{expected_hash}"
    if expected_hash and pinned.is_dir():
        return _content(pinned)
    filesystem, remote = connect(uri)
    with remote_errors(uri):
        names = remote_files(filesystem, remote, uri)
        state = hashlib.sha256(
            "\n".join(f"{name} {remote_state(filesystem, name)}" for name in names).encode()
        ).hexdigest()
        target = pinned if expected_hash else home / state[:20]
        if not target.is_dir():
            _fetch(filesystem, uri, remote, names, target, expected_hash)
    return _content(target)


@contextmanager
def remote_errors(uri: str) -> Iterator[None]:
    """Turn what a file system raises into a DataError about `uri`."""
    try:
        yield
    except DataError:
        raise
    # Every file system raises its own kinds of errors for a missing file, bucket, login or network.
    except Exception as error:
        raise DataError(
            f"{_hide_login(uri)}: could not be fetched: {type(error).__name__}: {_hide_login(str(error))}",
            hint="check the address, your login there and the network, or set data.remote_uri to a local copy",
        ) from None


def connect(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it. Raises DataError."""
    scheme = uri.partition("://")[0]
    try:
        import fsspec

        filesystem, remote = fsspec.core.url_to_fs(uri)
    except ImportError:
        package = _PACKAGES.get(scheme, "fsspec")
        raise DataError(
            f"{_hide_login(uri)}: reading {scheme}:// needs the package `{package}`",
            hint=f"type: pip install {package}",
        ) from None
    except ValueError as error:
        raise DataError(
            f"{_hide_login(uri)}: {error}", hint="known: s3://, gs://, https://, file://, hf:ORG/NAME"
        ) from None
    return filesystem, remote


def remote_files(filesystem: Any, remote: str, uri: str) -> list[str]:
    """The file itself, or the data files below a folder, sorted. Raises DataError where there is none."""
    if not filesystem.isdir(remote):
        return [remote]
    names = sorted(name for name in filesystem.find(remote) if name.endswith(SUFFIXES))
    if not names:
        raise DataError(
            f"{_hide_login(uri)}: the folder holds no data file", hint=f"known endings: {', '.join(SUFFIXES)}"
        )
    return names


def remote_state(filesystem: Any, name: str) -> str:
    """What changes when the remote file does."""
    info = filesystem.info(name)
    known = (
        info.get(key) for key in ("size", "ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")
    )
    return "|".join(str(value) for value in known)


def _fetch(filesystem: Any, uri: str, remote: str, names: list[str], target: Path, expected_hash: str | None) -> None:
    """Download beside the target and rename, so that a partial copy is never found."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        content = staging / "content"
        for name in names:
            if name == remote:
                local = content / PurePosixPath(remote).name
            else:
                local = content / "files" / PurePosixPath(name).relative_to(PurePosixPath(remote))
            if ".." in local.parts:
                raise DataError(f"the remote file name {name!r} leaves its folder")
            local.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(local))
            sync(local)
        if expected_hash:
            require_hash(_hide_login(uri), hash_data(_content(content)), expected_hash)
        try:
            content.rename(target)
        except OSError:
            # Another process finished the same download first; its copy is as good.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _content(folder: Path) -> Path:
    """The one entry of a finished download: a file, or a folder called `files`."""
    return next(iter(sorted(folder.iterdir())))


def _hide_login(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
