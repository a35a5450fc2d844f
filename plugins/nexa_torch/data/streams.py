"""Sources read piece by piece from any place on, without being downloaded or hashed whole.

A place in a source is a JSON object: for files {"file", "row", "offset"}, for hub data sets the state of the
`datasets` library. An empty object is the beginning.
"""

from __future__ import annotations

import codecs
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.errors import DataError
from nexa.nearby import nearby
from nexa_torch.data.files import data_files
from nexa_torch.data.locate import local_path
from nexa_torch.data.readers import Record, is_lines, is_parquet, parse_row, read_file, read_parquet
from nexa_torch.data.remote import connect, remote_errors, remote_files, remote_state
from nexa_torch.data.sources import HUB_SCHEME, load_hub

Place = Mapping[str, Any]

_STATE_ROWS = 256


class Stream(ABC):
    """A source to read from any place on. `names`: as rows' places begin; `identity`: what it holds, in JSON values."""

    names: Sequence[str]
    identity: Sequence[str]

    @abstractmethod
    def read(self, place: Place) -> Iterator[tuple[Record, Place]]:
        """Yield the rows from `place` to the end, each with the place behind it. Raises DataError."""


def open_stream(uri: str, *, split: str | None = None, revision: str | None = None) -> Stream:
    """Open a local path, an fsspec URI or a hub data set for reading piece by piece. Raises DataError."""
    if uri.startswith(HUB_SCHEME):
        return _HubStream(uri, split or "train", revision)
    if "://" in uri:
        filesystem, remote = connect(uri)
        with remote_errors(uri):
            names = remote_files(filesystem, remote, uri)
            states = [remote_state(filesystem, name) for name in names]
        files = [_File(name, lambda name=name: filesystem.open(name, "rb")) for name in names]
        return _FileStream(files, states)
    path = local_path(uri)
    if not path.exists():
        raise DataError(f"data not found: {path}", hint=nearby(path))
    found = data_files(path)
    # Neither the folder nor the inode: a copy elsewhere is the same data.
    states = [f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in found]
    return _FileStream([_File(str(file), None) for file in found], states)


@dataclass(frozen=True)
class _File:
    """One file: `open` gives its bytes; None for a file on this machine."""

    name: str
    open: Callable[[], Any] | None

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """The open file. Raises DataError where it can't be opened."""
        if self.open is None:
            with Path(self.name).open("rb") as local:
                yield local
            return
        with remote_errors(self.name):
            opened = self.open()
        with opened:
            yield opened


class _FileStream(Stream):
    """Files one after the other. JSON Lines are entered by byte offset, Parquet by row group, others at their start."""

    def __init__(self, files: Sequence[_File], states: Sequence[str]) -> None:
        self._files = files
        self.names = [file.name for file in files]
        self.identity = [f"{Path(file.name).name} {state}" for file, state in zip(files, states, strict=True)]

    def read(self, place: Place) -> Iterator[tuple[Record, Place]]:
        """Yield the rows from `place` on."""
        row, offset = int(place.get("row", 0)), int(place.get("offset", 0))
        for number in range(int(place.get("file", 0)), len(self._files)):
            for record, behind, end in _rows(self._files[number], row, offset):
                yield record, {"file": number, "row": behind, "offset": end}
            row = offset = 0


def _rows(file: _File, row: int, offset: int) -> Iterator[tuple[Record, int, int]]:
    """Rows of a file behind its first `row` rows, which end at byte `offset`; each with the same of its own end."""
    if is_lines(file.name):
        yield from _lines(file, row, offset)
    elif is_parquet(file.name):
        with file.stream() as stream:
            for number, record in enumerate(read_parquet(file.name, stream, skip=row), start=row + 1):
                yield record, number, 0
    elif file.open is None:
        for number, record in enumerate(read_file(Path(file.name)), start=1):
            if number > row:
                yield record, number, 0
    else:
        raise DataError(
            f"{file.name}: only .jsonl, .ndjson and .parquet files are streamed from there",
            hint="convert it, or set data.streaming: false so that it is downloaded",
        )


def _lines(file: _File, row: int, offset: int) -> Iterator[tuple[Record, int, int]]:
    """JSON Lines from a byte offset on; blank lines are passed over."""
    with file.stream() as stream:
        stream.seek(offset)
        for number, line in enumerate(stream, start=row + 1):
            offset += len(line)
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text.strip():
                place = f"{file.name}:{number}"
                yield Record(place, parse_row(text, place)), number, offset


class _HubStream(Stream):
    """A hub data set, entered through the library's own state, which is kept every some hundred rows."""

    def __init__(self, uri: str, split: str, revision: str | None) -> None:
        self._table = load_hub(uri, split, revision, streaming=True)
        self._begin = self._table.state_dict()
        self._name = f"{uri}[{split}]"
        self.names = [self._name]
        self.identity = [f"{self._name} {revision or ''} {self._table.info.version}"]

    def read(self, place: Place) -> Iterator[tuple[Record, Place]]:
        """Yield the rows from `place` on."""
        state, at = place.get("state", self._begin), int(place.get("state_row", 0))
        self._table.load_state_dict(copy.deepcopy(state))
        for number, value in enumerate(self._table, start=at + 1):
            if number > int(place.get("row", 0)):
                yield Record(f"{self._name}:{number}", value), {"row": number, "state": state, "state_row": at}
            if number % _STATE_ROWS == 0:
                state, at = self._table.state_dict(), number
