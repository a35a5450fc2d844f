"""Sends what a process prints to its log, without secrets. Standard library only."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

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


def _stream(descriptor: int) -> io.TextIOWrapper:
    stream = _CleanStream(os.fdopen(descriptor, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    stream.clean = redactor()
    return stream
