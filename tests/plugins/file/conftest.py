"""Stores to try, and staged folders to commit to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nexa_file.store import FileStore

FILES = {
    "config.json": b'{"d_model": 64}',
    "model.safetensors": b"weights " * 200,
    "tokenizer.json": b"{}",
    "trainer/optimizer.safetensors": b"moments " * 300,
    "trainer/state.json": b'{"step": 100}',
    "empty.txt": b"",
}


@pytest.fixture(scope="session")
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs would wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def scratch(memory_folder: Path) -> Iterator[Path]:
    """A fresh folder below `memory_folder`."""
    with tempfile.TemporaryDirectory(dir=memory_folder) as folder:
        yield Path(folder)


@pytest.fixture
def store(scratch: Path) -> FileStore:
    """An empty store."""
    return open_store(scratch / "artifacts")


@pytest.fixture
def stage(scratch: Path) -> Callable[..., Path]:
    """Makes a staged folder with the given files."""

    def make(files: Mapping[str, bytes] = FILES, *, into: Path = scratch) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="staged-", dir=into))
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    return make


def open_store(root: Path) -> FileStore:
    """Open the store in a folder."""
    store = FileStore()
    store.open(root.as_uri())
    return store


def contents(folder: Path) -> dict[str, bytes]:
    """Every regular file under a folder with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
