"""Where data comes from: `data.remote_uri` turned into local files, or rows of a hub data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nexa.errors import DataError
from nexa.nearby import nearby
from nexa_torch.data.files import data_files, hash_data, require_hash
from nexa_torch.data.hashes import Change, HashMemory, signature
from nexa_torch.data.locate import local_path
from nexa_torch.data.readers import FIELDS, Record, count_rows, read_file
from nexa_torch.data.remote import download

HUB_SCHEME = "hf:"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data that can be read.

    sha256: of its bytes, in hex. names: of its files, as rows' places begin. records: starts a new pass over it.
    count: rows as far as they can be told without reading them one by one, else None. require_same: raises
    DataError where the data is no longer what was hashed. change: what the data was when it was last opened,
    where that was something else.
    """

    uri: str
    sha256: str
    names: Sequence[str]
    records: Callable[[], Iterator[Record]]
    count: Callable[[], int | None]
    require_same: Callable[[], None]
    change: Change | None


def open_source(
    uri: str,
    *,
    cache: Path,
    split: str | None = None,
    revision: str | None = None,
    expected_hash: str | None = None,
    columns: Collection[str] | None = FIELDS,
) -> Source:
    """Make the data of `uri` readable here, downloading it into `cache` where it lies elsewhere.

    split, revision: of a hub data set. expected_hash: SHA-256 in hex that the data must have, or None.
    columns: those that are read where a file stores columns apart; None for all.
    Raises DataError where the data is missing, can't be fetched, or has another hash.
    """
    if uri.startswith(HUB_SCHEME):
        source = _open_hub(uri, split or "train", revision, HashMemory(cache))
    else:
        if split is not None:
            raise DataError(
                f"{uri}: split {split!r} can't be chosen: only hub data sets have named splits",
                hint="for a file, set data.validation.remote_uri or data.validation.fraction",
            )
        path = download(uri, cache, expected_hash=expected_hash) if "://" in uri else local_path(uri)
        source = _open_path(
            uri, path, HashMemory(cache), known_as=uri if "://" in uri else str(path.resolve()), columns=columns
        )
    require_hash(uri, source.sha256, expected_hash)
    return source


def _open_path(uri: str, path: Path, memory: HashMemory, *, known_as: str, columns: Collection[str] | None) -> Source:
    if not path.exists():
        raise DataError(f"data not found: {path}", hint=nearby(path))
    files = data_files(path)
    states = _states(files)
    sha256 = hash_data(path, memory.of_file)

    def records() -> Iterator[Record]:
        for file in files:
            yield from read_file(file, columns=columns)

    def count() -> int | None:
        counts = [count_rows(file) for file in files]
        return sum(number for number in counts if number is not None) if None not in counts else None

    def require_same() -> None:
        for file, before in states.items():
            if _states([file])[file] != before:
                raise DataError(f"{file}: changed while it was read", hint="try again when it is complete")

    return Source(
        uri=uri,
        sha256=sha256,
        names=[str(file) for file in files],
        records=records,
        count=count,
        require_same=require_same,
        change=memory.change(known_as, sha256),
    )


def _states(files: Sequence[Path]) -> dict[Path, str]:
    try:
        return {file: signature(file) for file in files}
    except OSError as error:
        raise DataError(f"{error.filename}: can't be read: {error.strerror}") from None


def load_hub(uri: str, split: str, revision: str | None, *, streaming: bool = False) -> Any:
    """A Hugging Face data set as the `datasets` library gives it. Raises DataError."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{uri}: reading hub data sets needs the package `datasets`", hint="type: pip install 'nexa-train[data]'"
        ) from None
    name = uri.removeprefix(HUB_SCHEME)
    try:
        return datasets.load_dataset(name, split=split, revision=revision, streaming=streaming)
    # The library raises whatever its file systems, parsers and HTTP client raise.
    except Exception as error:
        summary = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{uri}: split {split!r} could not be loaded: {summary}",
            hint="without internet access, fetch it elsewhere with `hf download --repo-type dataset "
            f"{name} --local-dir FOLDER` and set data.remote_uri to that folder",
        ) from None


def _open_hub(uri: str, split: str, revision: str | None, memory: HashMemory) -> Source:
    """Rows of a Hugging Face data set; hashed as canonical JSON, since its files differ by library version."""
    table = load_hub(uri, split, revision)
    # The library's own fingerprint names the table, but differs between versions of the library.
    state = f"{metadata.version('datasets')} {table._fingerprint} {len(table)}"
    sha256 = memory.recall(f"{uri}[{split}]", state)
    if sha256 is None:
        digest = hashlib.sha256()
        for row in table:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
        sha256 = digest.hexdigest()
        memory.remember(f"{uri}[{split}]", state, sha256)

    def records() -> Iterator[Record]:
        for number, row in enumerate(table, start=1):
            yield Record(place=f"{uri}[{split}]:{number}", value=row)

    return Source(
        uri=uri,
        sha256=sha256,
        names=[f"{uri}[{split}]"],
        records=records,
        count=lambda: len(table),
        require_same=lambda: None,
        change=memory.change(f"{uri}[{split}]", sha256),
    )
