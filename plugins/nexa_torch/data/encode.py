"""Turn documents into token ids and a loss mask, on all cores.

Documents go through the tokenizer in batches. For byte-level tokenizers, the usual kind, the place of
each token in the text follows from the lengths of the tokens' bytes, which is faster than asking the
tokenizer for offsets; the sums are checked against the text. Other tokenizers are asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
    carries loss; `ends` int64 [documents], the end of each document in them."""

    tokens: np.ndarray
    trained: np.ndarray
    ends: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Start of each document in `tokens`, int64 [documents]."""
        return np.concatenate(([0], self.ends[:-1])).astype(np.int64)


class Encoder:
    """Encodes documents with one tokenizer.

    mask: loss on the assistant's turns only, instead of on all tokens. Conversations are rendered
    by the chat template, which brings its own special tokens. Plain text gets the special tokens that the
    tokenizer adds by itself, and its end-of-sequence token at the end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, mask: bool) -> None:
        self._tokenizer = tokenizer
        self._mask = mask
        self._template: ChatTemplate | None = None
        self._token_places = _TokenPlaces(tokenizer)
        self._special_text = re.compile("|".join(map(re.escape, special_texts(tokenizer))) or r"(?!)")
        self._with_special_text: list[Document] = []

    @property
    def warnings(self) -> list[str]:
        """What a person should know about what was encoded so far, in words."""
        warnings = list(self._template.warnings) if self._template else []
        if self._with_special_text:
            first = self._with_special_text[0].place
            warnings.append(
                "documents that hold the text of a special token, which is encoded as that token: "
                f"{len(self._with_special_text)} (first: {first})"
            )
        return warnings

    def encode(self, documents: Sequence[Document], on_progress: Callable[[int, int], None] | None = None) -> Encoded:
        """Encode documents in order; `on_progress` is called as (done, total) between batches.

        Raises DataError naming the row that can't be rendered.
        """
        batches = list(_batches(documents))
        pieces: list[_Arrays] = []
        done = 0
        # One thread renders the next batch while the tokenizer's own threads encode this one.
        with ThreadPoolExecutor(max_workers=1) as renderer:
            pending = renderer.submit(self._render, batches[0])
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                if on_progress:
                    on_progress(done, len(documents))
                rendered = pending.result()
                if following:
                    pending = renderer.submit(self._render, following)
                pieces.append(self._encode_texts(batch) if rendered is None else self._encode_rendered(rendered))
                done += len(batch)
        if on_progress:
            on_progress(done, len(documents))
        tokens, trained, lengths = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return Encoded(tokens=tokens, trained=trained, ends=np.cumsum(lengths))

    def _render(self, documents: Sequence[Document]) -> list[Rendered] | None:
        """Conversations as text with the spans that carry loss; None for plain text."""
        self._with_special_text += [d for d in documents if any(map(self._special_text.search, d.parts))]
        if documents[0].messages is None:
            return None
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer)
        return self._template.render(documents, mask=self._mask)

    def _encode_rendered(self, rendered: Sequence[Rendered]) -> _Arrays:
        backend = self._tokenizer.backend_tokenizer
        encodings = backend.encode_batch_fast([r.text for r in rendered], add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        tokens, lengths = np.concatenate(ids), np.array([len(i) for i in ids], dtype=np.int64)
        if not self._mask:
            return tokens, np.ones(len(tokens), dtype=bool), lengths
        return tokens, self._token_places.mask(rendered, tokens, lengths), lengths

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


def _batches(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Consecutive documents, few enough to bound memory and enough to keep all cores busy."""
    start = characters = 0
    for i, document in enumerate(documents):
        size = sum(map(len, document.parts))
        if i > start and (i - start >= _BATCH_DOCUMENTS or characters + size > _BATCH_CHARACTERS):
            yield documents[start:i]
            start, characters = i, 0
        characters += size
    if start < len(documents):
        yield documents[start:]
