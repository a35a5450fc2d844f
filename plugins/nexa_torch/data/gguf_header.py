"""The metadata of a GGUF file, read without loading the model: context length, architecture, …

Reads the header alone, a few megabytes at most; the layout is that of the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nexa.errors import DataError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# Longer strings and counts than these mean a damaged file, not a model.
_MAX_STRING = 1 << 26
_MAX_COUNT = 1 << 28
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, kw_only=True)
class GGUFHeader:
    """values: scalar and string metadata by key. array_lengths: number of items of the arrays, by key.
    tensors: names of the tensors. sha256: of the metadata's bytes, in hex.
    """

    values: dict[str, object]
    array_lengths: dict[str, int]
    tensors: frozenset[str]
    sha256: str

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model was made for, in tokens; None where the file does not say."""
        value = self.values.get(f"{self.values.get('general.architecture')}.context_length")
        return value if isinstance(value, int) else None


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the metadata of a GGUF file. Raises DataError where it is none or is damaged."""
    try:
        with path.open("rb") as stream:
            values, lengths, tensor_count = _read_metadata(stream)
            end = stream.tell()
            tensors = frozenset(_read_tensor_name(stream) for _ in range(tensor_count))
            stream.seek(0)
            digest = hashlib.sha256(stream.read(end)).hexdigest()
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a readable GGUF file: {error}") from None
    return GGUFHeader(values=values, array_lengths=lengths, tensors=tensors, sha256=digest)


def _read_metadata(stream: BinaryIO) -> tuple[dict[str, object], dict[str, int], int]:
    """Scalar and string values, lengths of arrays, and the number of tensors described behind them."""
    if stream.read(4) != b"GGUF":
        raise ValueError("it does not start with the letters GGUF")
    version, tensors, count = struct.unpack("<IQQ", stream.read(20))
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version}; versions 2 and 3 are known")
    values: dict[str, object] = {}
    lengths: dict[str, int] = {}
    for _ in range(_bounded(count, _MAX_COUNT)):
        key = _read_string(stream)
        kind = _unpack(stream, "<I")
        value = _read_value(stream, kind)
        if kind == _ARRAY:
            lengths[key] = int(str(value))
        else:
            values[key] = value
    return values, lengths, _bounded(tensors, _MAX_COUNT)


def _read_tensor_name(stream: BinaryIO) -> str:
    """Name of the next tensor; its dimensions, type and place are passed over."""
    name = _read_string(stream)
    dimensions = _bounded(_unpack(stream, "<I"), _MAX_DIMENSIONS)
    stream.seek(8 * dimensions + 4 + 8, 1)
    return name


def _read_value(stream: BinaryIO, kind: int) -> object:
    """One value; for an array, which is passed over, its length."""
    if kind == _STRING:
        return _read_string(stream)
    if kind != _ARRAY:
        return _unpack(stream, _scalar_format(kind))
    item_kind = _unpack(stream, "<I")
    count = _bounded(_unpack(stream, "<Q"), _MAX_COUNT)
    if item_kind == _STRING:
        _skip_strings(stream, count)
    elif item_kind == _ARRAY:
        for _ in range(count):
            _read_value(stream, _ARRAY)
    else:
        stream.seek(count * struct.calcsize(_scalar_format(item_kind)), 1)
    return count


def _skip_strings(stream: BinaryIO, count: int) -> None:
    """Pass over an array of strings; a vocabulary has 10⁵ of them, so they are counted in memory, not read."""
    length_at = struct.Struct("<Q").unpack_from
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        offset = stream.tell()
        for _ in range(count):
            offset += 8 + length_at(content, offset)[0]
    stream.seek(offset)


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_bounded(_unpack(stream, "<Q"), _MAX_STRING)).decode("utf-8")


def _unpack(stream: BinaryIO, format: str) -> Any:
    return struct.unpack(format, stream.read(struct.calcsize(format)))[0]


def _scalar_format(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise ValueError(f"unknown value type {kind}") from None


def _bounded(count: int, limit: int) -> int:
    if count > limit:
        raise ValueError(f"a length of {count} is beyond belief")
    return count
