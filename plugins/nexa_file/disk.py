"""Every file-system operation of the store, each durable or safe in the way its name says.

All of them go through this module's `os`, so that tests can kill, fail or record any single one.
"""

# Paths' own methods would go around this module's `os`.
# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH112

from __future__ import annotations

import ctypes
import errno
import hashlib
import os as os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHUNK_BYTES = 1 << 18
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
# What file systems answer that can't sync a folder; the rename itself is then all there is.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_NO_RENAMEAT2 = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


class NotARegularFileError(OSError):
    """The path is a link, folder, pipe, socket or device."""


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; never follows a link or waits on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotARegularFileError(error.errno, "not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotARegularFileError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_file(path: Path) -> bytes:
    """Return the whole content of a small regular file."""
    descriptor = open_regular(path)
    try:
        return b"".join(bytes(chunk) for chunk in _chunks(descriptor))
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 (hex) of a regular file."""
    descriptor = open_regular(path)
    try:
        return _pump(descriptor, lambda chunk: None)
    finally:
        os.close(descriptor)


def copy_file(source: Path, target: Path) -> tuple[int, str]:
    """Copy a regular file to a new one, sync it, and return the size and SHA-256 of what was copied."""
    reading = open_regular(source)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            result = _pump(reading, lambda chunk: _write_all(writing, chunk))
            os.fchmod(writing, stat.S_IMODE(os.fstat(reading).st_mode))
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    return result


def same_content(first: Path, second: Path) -> bool:
    """Whether two regular files hold the same bytes, reading both."""
    with _opened(first) as left, _opened(second) as right:
        if os.fstat(left).st_size != os.fstat(right).st_size:
            return False
        return all(bytes(chunk) == os.pread(right, len(chunk), offset) for offset, chunk in _placed_chunks(left))


def write_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and sync it; the folder entry is not synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        _write_all(descriptor, memoryview(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    descriptor = open_regular(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's entries survive a power cut, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Make a folder with its missing parents, each entry synced in its parent."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        # Another process may make it in the meantime; anything but a folder fails at the next step.
        with suppress(FileExistsError):
            os.mkdir(folder)
        sync_folder(folder.parent)


def rename_new(source: Path, target: Path) -> None:
    """Rename a non-empty folder to a name that must be free. Raises FileExistsError when it is taken.

    Where the kernel or the file system lacks an exclusive rename, rename(2) itself serves: it
    replaces no file and no folder that holds anything.
    """
    try:
        _renameat2(source, target)
    except OSError as error:
        if error.errno not in _NO_RENAMEAT2:
            raise
        try:
            os.rename(source, target)
        except OSError as refused:
            if refused.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from refused
            raise


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, following no link; absent is fine."""
    try:
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def _write_all(descriptor: int, content: memoryview) -> None:
    """Write everything, continuing after short writes."""
    while content:
        content = content[os.write(descriptor, content) :]


def _chunks(descriptor: int) -> Iterator[memoryview]:
    """Yield a file's content from its start; each chunk is valid until the next one is asked for."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while size := os.readv(descriptor, [buffer]):
        yield buffer[:size]


def _placed_chunks(descriptor: int) -> Iterator[tuple[int, memoryview]]:
    """Yield a file's chunks with their offsets."""
    offset = 0
    for chunk in _chunks(descriptor):
        yield offset, chunk
        offset += len(chunk)


def _pump(descriptor: int, take: Callable[[memoryview], None]) -> tuple[int, str]:
    """Hand each chunk to `take`, and return size and SHA-256 of all of them."""
    digest = hashlib.sha256()
    size = 0
    for chunk in _chunks(descriptor):
        digest.update(chunk)
        take(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Hold a regular file open for reading."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _renameat2(source: Path, target: Path) -> None:
    """Linux's rename that refuses to replace; OSError ENOSYS where the C library has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))
