"""Read data files row by row: JSON Lines, JSON arrays, plain text (all three also gzipped), Parquet and NumPy.

Every row knows its place as `file:row`, counted from 1 (in JSON Lines that is the line).
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nexa.errors import DataError

_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_ARRAY = (".json", ".json.gz")
_TEXT = (".txt", ".txt.gz", ".md", ".md.gz")
_PARQUET = (".parquet",)
_NUMPY = (".npy",)
SUFFIXES = _LINES + _ARRAY + _TEXT + _PARQUET + _NUMPY
"""Endings of files that can be read."""
FIELDS = frozenset(
    {"messages", "prompt", "instruction", "input", "system", "text"}
    | {"response", "completion", "output"}
    | {"tokens", "input_ids", "labels", "mask", "loss_mask", "completion_mask", "assistant_masks"}
)
"""Every field of a row that some layout of `nexa_torch.data.documents` reads."""

_FAST_JSON = msgspec.json.Decoder()
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read: `place` is "file:row", `value` its fields."""

    place: str
    value: Mapping[str, Any]


def read_file(path: Path, *, columns: Collection[str] | None = FIELDS) -> Iterator[Record]:
    """Yield the rows of one file. A plain-text file is one row with the field `text`.

    columns: those that are read where a file stores columns apart; None for all.
    Raises DataError, naming file and row, where the file is empty, malformed or of an unknown kind.
    """
    reader = _reader_of(path)
    found = False
    try:
        for record in reader(path, columns):
            found = True
            yield record
    except OSError as error:
        # gzip reports a damaged file as an OSError without errno.
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from None
    if not found:
        raise DataError(f"{path}: the file is empty")


def _reader_of(path: Path) -> Any:
    name = path.name.lower()
    for suffixes, reader in (
        (_LINES, _read_lines),
        (_ARRAY, _read_array),
        (_TEXT, _read_text),
        (_PARQUET, _read_parquet),
        (_NUMPY, _read_numpy),
    ):
        if name.endswith(suffixes):
            return reader
    raise DataError(f"{path}: files of this kind can't be read", hint=f"known endings: {', '.join(SUFFIXES)}")


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 text: byte 0x{data[error.start]:02x} at byte {error.start + 1}",
            hint="save the file as UTF-8",
        ) from None


def _read_lines(path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    blank: int | None = None
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                line = line[len(codecs.BOM_UTF8) :]
            if not line.strip():
                blank = blank or number
                continue
            # Blank lines are allowed at the end only, where editors leave them.
            if blank is not None:
                raise DataError(
                    f"{path}:{blank}: the row is empty", hint="remove the line, or write a JSON object on it"
                )
            place = f"{path}:{number}"
            yield Record(place, parse_row(line, place))


def _read_array(path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    with _open(path) as stream:
        data = stream.read().removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        return
    rows = _parse(_decode(data, str(path)), str(path))
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: holds {_kind(rows)}, not an array of rows", hint="one JSON object a line belongs in a .jsonl file"
        )
    for number, row in enumerate(rows, start=1):
        place = f"{path}:{number}"
        yield Record(place, _as_object(row, place))


def _read_text(path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    with _open(path) as stream:
        data = stream.read().removeprefix(codecs.BOM_UTF8)
    text = _decode(data, str(path))
    if text.strip():
        yield Record(f"{path}:1", {"text": text})


def _read_parquet(path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    yield from read_parquet(str(path), path, columns=columns)


def read_parquet(
    name: str, source: Any, *, skip: int = 0, columns: Collection[str] | None = FIELDS
) -> Iterator[Record]:
    """Rows of a Parquet file, group by group; the first `skip` are left out, whole groups unread.

    name: for messages. source: a path or an open binary file. columns: those that are read, or None for all; where
    the file has none of them it is read whole. Raises DataError.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{name}: reading Parquet needs the package `pyarrow`", hint="type: pip install 'nexa-train[data]'"
        ) from None
    group = number = 0
    try:
        with pyarrow.parquet.ParquetFile(source, memory_map=isinstance(source, Path)) as table:
            # Other columns, such as embeddings, may be much larger than the text.
            wanted = None if columns is None else [each for each in table.schema_arrow.names if each in columns] or None
            for group in range(table.num_row_groups):
                if number + table.metadata.row_group(group).num_rows <= skip:
                    number += table.metadata.row_group(group).num_rows
                    continue
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=wanted):
                    for row in batch.to_pylist():
                        number += 1
                        if number > skip:
                            yield Record(f"{name}:{number}", row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: damaged Parquet file, in row group {group + 1}: {error}") from None


def _read_numpy(path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    """Token ids: each row of a two-dimensional array is a document, a one-dimensional one is a single document."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged NumPy file: {error}") from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: holds {array.dtype} numbers in {array.ndim} dimensions",
            hint="token ids are whole numbers in one dimension (one document) or two (a document a row)",
        )
    for number, row in enumerate(np.atleast_2d(array), start=1):
        yield Record(f"{path}:{number}", {"tokens": row})


def count_rows(path: Path) -> int | None:
    """Rows of a file as far as that is told without reading them one by one, for progress; None where it is not."""
    if is_lines(path.name):
        with path.open("rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    if path.name.lower().endswith(_TEXT):
        return 1
    return None


def is_lines(name: str) -> bool:
    """Whether a file of this name holds JSON Lines that can be entered anywhere."""
    return name.lower().endswith((".jsonl", ".ndjson"))


def is_parquet(name: str) -> bool:
    """Whether a file of this name is Parquet."""
    return name.lower().endswith(_PARQUET)


def parse_row(line: bytes, place: str) -> dict[str, Any]:
    """The row on a line of JSON Lines. Raises DataError naming `place`."""
    return _as_object(_parse_line(line, place), place)


def _parse_line(line: bytes, place: str) -> Any:
    """A line's JSON value; the fast parser first, and where it refuses, the one whose messages name columns."""
    try:
        return _FAST_JSON.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _parse(_decode(line.rstrip(b"\r\n"), place), place)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataError(f"{place}: malformed JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise DataError(f"{place}: malformed JSON: nested too deeply") from None


def _as_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: the row is {_kind(value)}, not a JSON object")
    if not value:
        raise DataError(f"{place}: the row is empty")
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")
