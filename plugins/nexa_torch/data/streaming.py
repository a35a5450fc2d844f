"""Rows of a source that is encoded in the run, window by window.

A window is some thousand consecutive documents, encoded and packed together; its rows are shuffled by a pure function
of the seed, the pass over the data and the window's number. Windows are prepared folders, so processes of one node
share the work, and the next one is made while the current one is trained on. For each window a small record stays that
says where it begins in the source and at which row of the run: with it any row is reached again without reading what
stands before, and where the records are lost they are made again.

    <cache>/streams/<key>/00000007/      the window's documents, removed when it is two windows old; the first one stays
    <cache>/streams/<key>/00000007.json  its record: {"begin", "end", "pass", "first_row", "rows"}
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nexa.backend import PrepareProgress
from nexa.files import read_json, write_json
from nexa.prepared import PreparedCache, PreparedEntry
from nexa_torch.data.documents import Format, parse_documents
from nexa_torch.data.encode import Encoder
from nexa_torch.data.fingerprint import code_version, content_key, tokenizer_fingerprint
from nexa_torch.data.order import window_order
from nexa_torch.data.readers import Record
from nexa_torch.data.rows import Batch, stack
from nexa_torch.data.store import SHARD_TOKENS, TokenStore, TokenWriter
from nexa_torch.data.streams import Place, Stream
from nexa_torch.data.views import View, ViewOptions, open_view

if TYPE_CHECKING:
    from typing import Literal

    from transformers import PreTrainedTokenizerBase

ENDLESS = 1 << 40
"""Rows that a stream claims to have: more than a run can ask for."""
_FIRST = 0


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream becomes rows; see the recipe's `data` section for each."""

    format: Literal["auto"] | Format
    masked: bool
    window: int
    limit: int | None
    row_length: int
    packing: bool
    pad_id: int
    seed: int


class StreamedRows:
    """Rows in their training order, addressed by their number in the run; meant to be taken in ascending order.

    The same interface as `Rows`, but `ordered`: a sampler must not shuffle them again.
    """

    ordered = True

    def __init__(
        self,
        stream: Stream,
        tokenizer: PreTrainedTokenizerBase,
        options: StreamOptions,
        cache: Path,
        on_progress: PrepareProgress,
    ) -> None:
        self.row_length, self.pad_id = options.row_length, options.pad_id
        self._stream, self._tokenizer, self._options = stream, tokenizer, options
        self._report = on_progress
        fields = {
            "stream": list(stream.identity),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "code": code_version(),
            **{name: value for name, value in vars(options).items() if name not in ("pad_id", "seed")},
        }
        self.identity = content_key(fields)
        self.data_hash = hashlib.sha256("\n".join(stream.identity).encode()).hexdigest()
        self._cache = PreparedCache(cache / "streams", self.identity)
        self._ahead: ThreadPoolExecutor | None = None
        self._next = 0
        self._known: tuple[int, Mapping[str, Any]] | None = None
        self._open = lru_cache(maxsize=2)(self._open_window)

    def __len__(self) -> int:
        return ENDLESS

    @property
    def first(self) -> View:
        """The first window, which stands for the whole where figures are wanted."""
        return self._open(_FIRST)

    def begin(self) -> View:
        """Make the first window and report no more: later ones are made while the run reports of its steps."""
        view = self.first
        self._report = silent
        return view

    @property
    def token_count(self) -> int:
        """Tokens in the first window."""
        return self.first.rows.token_count

    @property
    def trained_token_count(self) -> int:
        """Positions with loss in the first window."""
        return self.first.rows.trained_token_count

    @property
    def largest_token_id(self) -> int:
        """Largest token id of the first window."""
        return self.first.rows.largest_token_id

    def take(self, indices: Sequence[int] | np.ndarray, *, full_width: bool = False) -> Batch:
        """Lay out rows by their numbers in the run; see `Rows.take`."""
        pieces: dict[int, list[int]] = {}
        for index in indices:
            number, place = self._locate(int(index))
            pieces.setdefault(number, []).append(place)
        batches = [self._open(number).rows.take(places, full_width=full_width) for number, places in pieces.items()]
        if pieces:
            self._prepare_ahead(max(pieces) + 1)
        return stack(batches, self.pad_id)

    def close(self) -> None:
        """Wait for work in the background."""
        if self._ahead is not None:
            self._ahead.shutdown()
            self._ahead = None

    def cursor(self, row: int) -> dict[str, Any]:
        """The record of the window that holds row `row` of the run, with its number: enough to go on from there."""
        number, _ = self._locate(row)
        return {"window": number, **self._record(number)}

    def restore(self, cursor: Mapping[str, Any]) -> None:
        """Go on from a cursor of the same stream, where this machine has no records of it."""
        fields = dict(cursor)
        number = int(fields.pop("window"))
        self._cache.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._record_path(number), fields)
        self._known = None

    def _locate(self, index: int) -> tuple[int, int]:
        """The window of a row of the run, and the row's place in it."""
        number, record = self._nearest(index)
        while index >= record["first_row"] + record["rows"]:
            number += 1
            record = self._record(number)
            self._known = number, record
        order = window_order(self._options.seed, record["pass"], number, record["rows"])
        return number, int(order[index - record["first_row"]])

    def _nearest(self, index: int) -> tuple[int, Mapping[str, Any]]:
        """The last known window that does not begin behind a row."""
        if self._known is not None and self._known[1]["first_row"] <= index:
            return self._known
        best: tuple[int, Mapping[str, Any]] | None = None
        for path in self._cache.folder.glob("????????.json"):
            record = read_json(path)
            if record and record["first_row"] <= index and (best is None or int(path.stem) > best[0]):
                best = (int(path.stem), record)
        if best is None:
            best = (0, self._record(0))
        self._known = best
        return best

    def _record(self, number: int) -> Mapping[str, Any]:
        record = read_json(self._record_path(number))
        if record is None:
            self._build(number)
            record = read_json(self._record_path(number))
        assert record is not None
        return record

    def _record_path(self, number: int) -> Path:
        return self._cache.folder / f"{number:08d}.json"

    def _build(self, number: int) -> PreparedEntry:
        """The prepared folder of a window; it begins where its record says, else where the one before it ends."""
        record = read_json(self._record_path(number))
        start = record or _behind(self._record(number - 1) if number else None)
        entry = self._cache.build(
            f"{number:08d}",
            lambda folder: self._fill(folder, start["begin"], start["pass"]),
            on_wait=lambda holder: self._report("waiting", 0, None),
        )
        if record is None:
            fields = {**start, "end": entry.index["end"], "rows": len(self._view(entry).rows)}
            write_json(self._record_path(number), fields)
        # The first one stays: every attempt begins with its figures.
        old = self._cache.get(f"{number - 2:08d}") if number > _FIRST + 2 else None
        if old is not None:
            self._cache.remove(old)
        return entry

    def _fill(self, folder: Path, begin: Place, number: int) -> dict[str, Any]:
        """Encode the window that begins at a place, in pass `number`, into a folder; returns its index's fields."""
        limit = None if self._options.limit is None else self._options.limit - int(begin.get("documents", 0))
        reading = _Reading(self._stream, begin, limit)
        documents = parse_documents(reading.records(), self._options.format, answers=self._options.masked)
        writer = TokenWriter(
            folder, names=self._stream.names, vocabulary=len(self._tokenizer), masked=self._options.masked
        )
        taken = tokens = 0
        encoder = Encoder(self._tokenizer, mask=self._options.masked)
        with contextlib.closing(encoder.encode(islice(documents, self._options.window))) as batches:
            for batch in batches:
                writer.add(batch)
                taken += len(batch.places)
                tokens += len(batch.encoded.tokens)
                if taken >= self._options.window or tokens >= SHARD_TOKENS:
                    break
        counts = writer.finish()
        end = {**reading.places[taken - 1], "documents": int(begin.get("documents", 0)) + taken}
        if reading.ended and taken == len(reading.places):
            end["done"] = True
        return {**counts, "begin": begin, "end": end, "pass": number}

    def _open_window(self, number: int) -> View:
        return self._view(self._build(number))

    def _view(self, entry: PreparedEntry) -> View:
        options = ViewOptions(
            what="training",
            row_length=self.row_length,
            packing=self._options.packing,
            pad_id=self.pad_id,
            conversations=bool(entry.index["conversations"]),
            selection={},
            choose=np.arange,
        )
        return open_view(entry, TokenStore(entry.path, self._stream.names), options)

    def _prepare_ahead(self, number: int) -> None:
        """Make a window in a thread while the one before it is trained on."""
        if number == self._next:
            return
        self._next = number
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")
        # Trouble comes up again when the window is asked for.
        self._ahead.submit(self._build, number)


def silent(phase: str, done: int, total: int | None) -> None:
    """Progress that nobody is told of."""


def _behind(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where the window behind another one begins: its place, its pass, and its first row in the run."""
    if record is None:
        return {"begin": {}, "pass": 0, "first_row": 0}
    ended = record["end"].get("done", False)
    return {
        "begin": {} if ended else record["end"],
        "pass": record["pass"] + ended,
        "first_row": record["first_row"] + record["rows"],
    }


class _Reading:
    """Rows of a stream from a place on, and the place behind each of them."""

    def __init__(self, stream: Stream, begin: Place, limit: int | None) -> None:
        self._stream, self._begin, self._limit = stream, begin, limit
        self.places: list[Place] = []
        self.ended = False

    def records(self) -> Iterator[Record]:
        """Yield the rows; `ended` is set before the last one is."""
        rows = islice(self._stream.read(self._begin), self._limit)
        following = next(rows, None)
        while following is not None:
            (record, place), following = following, next(rows, None)
            self.places.append(place)
            self.ended = following is None
            yield record
