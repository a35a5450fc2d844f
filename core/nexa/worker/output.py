"""Sends what a process prints to its log, without secrets. Standard library only."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nexa.errors import WorkerError
from nexa.text import redactor


class _CleanStream(io.TextIOWrapper):
    """A text stream that removes secrets from what is written."""

    clean: Callable[[str], str] = staticmethod(str)

    def write(self, text: str) -> int:
        """Write `text` without secrets; returns the length of what was given."""
        super().write(self.clean(text))
        return len(text)


def redirect_to(log_path: Path) -> None:
    """Append everything this process and its children print to `log_path`; stdin becomes empty.

    It works on file descriptors, so that compiled libraries are caught too. Raises WorkerError when
    the log can't be written.
    """
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorkerError(f"the log {log_path} can't be written: {error.strerror or error}") from error
    nothing = os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    for source, target in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
        os.dup2(source, target)
    os.close(descriptor)
    os.close(nothing)
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)


@contextmanager
def redirected(log_path: Path) -> Iterator[IO[str]]:
    """`redirect_to` for as long as the block runs; yields a stream to where standard output went before."""
    sys.stdout.flush()
    sys.stderr.flush()
    streams = sys.stdout, sys.stderr
    saved = [os.dup(number) for number in (0, 1, 2)]
    try:
        redirect_to(log_path)
        with os.fdopen(os.dup(saved[1]), "w", encoding="utf-8", errors="backslashreplace", buffering=1) as terminal:
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _stream(descriptor: int) -> io.TextIOWrapper:
    stream = _CleanStream(os.fdopen(descriptor, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    stream.clean = redactor()
    return stream
