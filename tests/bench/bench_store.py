"""Commit of a large checkpoint against hashing it: target ≤1.1x `hashlib.file_digest` alone.

Both see the same bytes in the page cache. "unsynced" commits come right after the files were
written, so they also wait for the disk; "synced" ones show the store's own work.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench._measure import Timing, report

from nexa_file.store import FileStore


def main(argv: Sequence[str] = ()) -> None:
    """Measure commits of one large file, of several, and of a copy of what is stored already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gibibytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: the temporary folder")
    options = parser.parse_args(argv)
    size = int(options.gibibytes * 2**30)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for count in (1, 8):
            for synced in (True, False):
                title = f"commit of {options.gibibytes:g} GiB in {count} file(s), {'synced' if synced else 'unsynced'}"
                timings = compare(folder, size, count, options.rounds, synced=synced)
                report(title, timings, candidate="commit", target="≤1.1x file_digest" if synced else "")
        repeat(folder, size)


def compare(folder: Path, size: int, count: int, rounds: int, *, synced: bool) -> dict[str, Timing]:
    """Time hashing, copying and committing the same files, in turn."""
    seconds: dict[str, list[float]] = {"commit": [], "file_digest": [], "cp": []}
    for turn in range(rounds):
        staged = stage(folder, size, count, seed=turn)
        if synced:
            os.sync()
        seconds["file_digest"].append(timed(digest, staged))
        if synced:
            seconds["cp"].append(timed(shutil.copytree, staged, folder / "copy"))
            shutil.rmtree(folder / "copy")
        else:
            shutil.rmtree(staged)
            staged = stage(folder, size, count, seed=turn)
        store = open_store(folder / "store")
        seconds["commit"].append(timed(store.commit, staged, "checkpoints/bench", kind="checkpoint", manifest={}))
        shutil.rmtree(folder / "store")
    return {name: Timing(name, tuple(values)) for name, values in seconds.items() if values}


def repeat(folder: Path, size: int) -> None:
    """Commit the same bytes twice and print what the second costs on disk."""
    store = open_store(folder / "store")
    before = shutil.disk_usage(folder).used
    used = []
    for number in (1, 2):
        staged = stage(folder, size, 1, seed=0)
        store.commit(staged, f"checkpoints/bench/step-{number}", kind="checkpoint", manifest={})
        os.sync()
        used.append(shutil.disk_usage(folder).used - before)
    print(f"\nidentical file committed twice: {used[0]:,} bytes, then {used[1] - used[0]:,} more  [target: none]")


def stage(folder: Path, size: int, count: int, *, seed: int) -> Path:
    """Write `count` files of `size` bytes together, different for each seed and file."""
    staged = Path(tempfile.mkdtemp(dir=folder))
    block = bytearray(os.urandom(1 << 20) if seed else b"nexa" * (1 << 18))
    for number in range(count):
        with (staged / f"part-{number}").open("wb") as file:
            for index in range(size // count >> 20):
                block[:16] = f"{seed:4}{number:4}{index:8}".encode()
                file.write(block)
    return staged


def digest(folder: Path) -> None:
    """Hash every file as the standard library does it."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def timed(call: Callable[..., object], *arguments: object, **options: object) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call(*arguments, **options)
    return time.perf_counter() - started


def open_store(root: Path) -> FileStore:
    """The store in a folder."""
    store = FileStore()
    store.open(root.as_uri())
    return store
