"""Turn documents into token ids and a loss mask, on all cores.

Documents go through the tokenizer in batches. For byte-level tokenizers, the usual kind, the place of
each token in the text follows from the lengths of the tokens' bytes, which is faster than asking the
tokenizer for offsets; the sums are checked against the text. Other tokenizers are asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nexa.errors import DataError
from nexa_torch.data.documents import Document
from nexa_torch.data.template import ChatTemplate, Rendered, special_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 4_000_000

_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Token ids, loss mask, and token count of each document."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Documents end to end: `tokens` int32 [N]; `trained` bool [N], true where predicting that token
    carries loss; `lengths` int64 [documents], the tokens of each."""

    tokens: np.ndarray
    trained: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """Some consecutive documents encoded, and where each was read.

    special_text: places of those that hold the text of a special token. conversations: they went through the
    chat template. warnings: what a person should know about it, of all batches so far.
    """

    encoded: Encoded
    places: list[str]
    special_text: list[str]
    conversations: bool
    warnings: list[str]


@dataclass(frozen=True)
class _Rendered:
    """A batch ready for the tokenizer; `conversations` is None for documents that need no template."""

    documents: list[Document]
    conversations: list[Rendered] | None
    special_text: list[str]


class Encoder:
    """Encodes documents with one tokenizer.

    mask: loss on the assistant's turns only, instead of on all tokens. Conversations are rendered
    by the chat template, which brings its own special tokens. Plain text gets the special tokens that the
    tokenizer adds by itself, and its end-of-sequence token at the end. Documents of token ids stay as they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, mask: bool) -> None:
        self._tokenizer = tokenizer
        self._mask = mask
        self._template: ChatTemplate | None = None
        self._token_places = _TokenPlaces(tokenizer)
        self._special_text = re.compile("|".join(map(re.escape, special_texts(tokenizer))) or r"(?!)")

    def encode(self, documents: Iterable[Document]) -> Iterator[EncodedBatch]:
        """Encode documents in order, some hundred at a time. Raises DataError naming a row that can't be rendered."""
        batches = _batches(documents)
        # One thread reads and renders the next batch while the tokenizer's own threads encode this one.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="render") as renderer:
            pending = renderer.submit(self._next, batches)
            while (batch := pending.result()) is not None:
                pending = renderer.submit(self._next, batches)
                yield self._encode(batch)

    def _next(self, batches: Iterator[list[Document]]) -> _Rendered | None:
        documents = next(batches, None)
        if documents is None:
            return None
        special = self._special_text.search
        marked = [document.place for document in documents if any(map(special, document.parts))]
        conversations = None
        if documents[0].messages is not None:
            if self._template is None:
                self._template = ChatTemplate(self._tokenizer, answers=self._mask)
            conversations = self._template.render(documents, mask=self._mask)
        return _Rendered(documents, conversations, marked)

    def _encode(self, batch: _Rendered) -> EncodedBatch:
        if batch.conversations is not None:
            arrays = self._encode_rendered(batch.conversations)
            self._require_terminators(batch.documents, *arrays)
        elif batch.documents[0].tokens is not None:
            arrays = self._take_tokens(batch.documents)
        else:
            arrays = self._encode_texts(batch.documents)
        tokens, trained, lengths = arrays
        return EncodedBatch(
            encoded=Encoded(tokens=tokens, trained=trained, lengths=lengths),
            places=[document.place for document in batch.documents],
            special_text=batch.special_text,
            conversations=batch.conversations is not None,
            warnings=list(self._template.warnings) if self._template else [],
        )

    def _take_tokens(self, documents: Sequence[Document]) -> _Arrays:
        vocabulary = len(self._tokenizer)
        for document in documents:
            largest = int(max(document.tokens, default=0)) if document.tokens is not None else 0
            if largest >= vocabulary:
                raise DataError(
                    f"{document.place}: token {largest} is none of the tokenizer's, which end at {vocabulary - 1}",
                    hint="set model.tokenizer to the one that the data was tokenised with",
                )
        tokens = [np.asarray(document.tokens, dtype=np.int32) for document in documents]
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        if not self._mask:
            return np.concatenate(tokens), np.ones(int(lengths.sum()), dtype=bool), lengths
        trained = [np.asarray(document.trained, dtype=bool) for document in documents]
        return np.concatenate(tokens), np.concatenate(trained), lengths

    def _encode_rendered(self, rendered: Sequence[Rendered]) -> _Arrays:
        backend = self._tokenizer.backend_tokenizer
        encodings = backend.encode_batch_fast([r.text for r in rendered], add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        tokens, lengths = np.concatenate(ids), np.array([len(i) for i in ids], dtype=np.int64)
        if not self._mask:
            return tokens, np.ones(len(tokens), dtype=bool), lengths
        return tokens, self._token_places.mask(rendered, tokens, lengths), lengths

    def _require_terminators(
        self, documents: Sequence[Document], tokens: np.ndarray, trained: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Raise DataError for a conversation that ends with an answer of which the terminator carries no loss."""
        terminator = self._template.terminator if self._template and self._mask else None
        if terminator is None:
            return
        token = self._tokenizer.convert_tokens_to_ids(terminator)
        ended = np.zeros(len(documents), dtype=bool)
        ended[np.searchsorted(np.cumsum(lengths), np.flatnonzero(trained & (tokens == token)), side="right")] = True
        for i in np.flatnonzero(~ended).tolist():
            if (documents[i].messages or [{}])[-1].get("role") == "assistant":
                raise DataError(
                    f"{documents[i].place}: {terminator}, which ends turns in the chat template, carries no loss here, "
                    "so the model would not learn to stop",
                    hint="set model.chat_template to a template whose {% generation %} marks hold it, "
                    "or data.train_on: all",
                )

    def _encode_texts(self, documents: Sequence[Document]) -> _Arrays:
        end = self._tokenizer.eos_token_id
        texts = [document.text or "" for document in documents]
        ids = []
        for encoding in self._tokenizer.backend_tokenizer.encode_batch_fast(texts):
            tokens = encoding.ids
            if end is not None and (not tokens or tokens[-1] != end):
                tokens.append(end)
            ids.append(np.array(tokens, dtype=np.int32))
        tokens = np.concatenate(ids)
        return tokens, np.ones(len(tokens), dtype=bool), np.array([len(i) for i in ids], dtype=np.int64)


class _TokenPlaces:
    """Finds the tokens that lie in given ranges of the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        normalizer = self._backend.normalizer
        # Composing characters (NFC) leaves most text as it is, which is checked for each text.
        self._composes = type(normalizer).__name__ == "NFC"
        self._byte_lengths: np.ndarray | None = None
        if type(self._backend.decoder).__name__ == "ByteLevel" and (normalizer is None or self._composes):
            self._byte_lengths = _byte_lengths(tokenizer)

    def mask(self, rendered: Sequence[Rendered], tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """bool [N]: tokens that overlap a span of their document. `tokens` are all documents' end to end."""
        ends = np.cumsum(lengths)
        trained = np.zeros(len(tokens), dtype=bool)
        if self._byte_lengths is None:
            self._mask_by_offsets(range(len(rendered)), rendered, ends - lengths, trained)
            return trained
        # Byte at which each token starts, all documents end to end; one more for the end of the last.
        edges = np.concatenate(([0], np.cumsum(self._byte_lengths[tokens])))
        bases, limits = edges[ends - lengths].tolist(), edges[ends].tolist()
        odd: list[int] = []
        starts: list[int] = []
        stops: list[int] = []
        for i, item in enumerate(rendered):
            spans = self._byte_spans(item, limits[i] - bases[i])
            if spans is None:
                odd.append(i)
                continue
            starts.extend(bases[i] + start for start, _ in spans)
            stops.extend(bases[i] + end for _, end in spans)
        # The first token that ends behind a span's start, and the first that starts at or behind its end.
        firsts = np.searchsorted(edges[1:], starts, side="right")
        lasts = np.searchsorted(edges[:-1], stops, side="left")
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            trained[first:last] = True
        self._mask_by_offsets(odd, rendered, ends - lengths, trained)
        return trained

    def _byte_spans(self, item: Rendered, byte_count: int) -> list[tuple[int, int]] | None:
        """A text's spans counted in bytes; None where its tokens do not have the text's bytes."""
        text = item.text
        if text.isascii():
            return item.spans if len(text) == byte_count else None
        if self._composes and not unicodedata.is_normalized("NFC", text):
            return None
        if len(text.encode()) != byte_count:
            return None
        return [(len(text[:start].encode()), len(text[:end].encode())) for start, end in item.spans]

    def _mask_by_offsets(
        self, indices: Sequence[int], rendered: Sequence[Rendered], starts: np.ndarray, trained: np.ndarray
    ) -> None:
        """The same for some documents by the tokenizer's own offsets, written into `trained`."""
        if not indices:
            return
        encodings = self._backend.encode_batch([rendered[i].text for i in indices], add_special_tokens=False)
        for i, encoding in zip(indices, encodings, strict=True):
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            view = trained[starts[i] : starts[i] + len(offsets)]
            for start, end in rendered[i].spans:
                view |= (offsets[:, 0] < end) & (offsets[:, 1] > start)


def _byte_lengths(tokenizer: Any) -> np.ndarray:
    """Bytes of text that each token of a byte-level vocabulary stands for, int64 [vocabulary]."""
    # In a byte-level vocabulary one character stands for one byte, but added tokens are written as they are.
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for text, token in vocabulary.items():
        lengths[token] = len(text.encode()) if token in added else len(text)
    return lengths


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Consecutive documents, few enough to bound memory and enough to keep all cores busy."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if len(batch) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
