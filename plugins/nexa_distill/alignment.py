"""The same text in the tokens of two models: where both are about to predict what comes next.

A position of the student is matched with the one of the teacher that has read exactly the same bytes: where a token of
either ends at the same place of the text. That holds whatever the vocabularies are, for both tokenize text from left
to right; the share of matched positions is that of common token boundaries.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nexa.errors import UserError
from nexa_torch.data.byte_tokenizer import byte_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, kw_only=True)
class AlignedText:
    """Text of a student's tokens as the teacher reads it.

    ids: the teacher's tokens, int32 [T]. student, teacher: matched places in the student's tokens and in `ids`, int64
    [A] each, both ascending.
    """

    ids: np.ndarray
    student: np.ndarray
    teacher: np.ndarray


class Aligner:
    """Reads a student's tokens as a teacher's, and matches the places of both."""

    def __init__(
        self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, longest: int | None = None
    ) -> None:
        """longest: tokens of a text that the teacher can read. Raises UserError for tokens that stand for no bytes."""
        self._student, self._theirs = token_bytes(student, "the student"), token_bytes(teacher, "the teacher")
        self._teacher = teacher
        self._longest = longest
        # Markers of start and end have a role, not a text: the teacher is to see its own.
        pairs = ((student.bos_token_id, teacher.bos_token_id), (student.eos_token_id, teacher.eos_token_id))
        self._roles = {
            ours: theirs
            for ours, theirs in pairs
            if ours is not None and theirs is not None and self._student[ours] != self._theirs[theirs]
        }
        start = teacher("a")["input_ids"][0]
        self._start = start if start == teacher.bos_token_id else None

    @property
    def teacher_vocabulary(self) -> int:
        """Number of the teacher's tokens."""
        return len(self._theirs)

    def __call__(self, ids: np.ndarray) -> AlignedText:
        """ids: the student's tokens of one text, int [n]."""
        theirs: list[int] = []
        ours, ends, base = np.zeros(len(ids), dtype=np.int64), [np.zeros(0, dtype=np.int64)], 0
        for first, last in self._runs(ids):
            part = ids[first:last].tolist()
            if part[0] in self._roles:
                found, places, length = [self._roles[part[0]]], np.ones(1, dtype=np.int64), 1
                ours[first] = base + 1
            else:
                pieces = [self._student[token] for token in part]
                ours[first:last] = base + np.cumsum([len(piece) for piece in pieces])
                data = b"".join(pieces)
                found, places, length = *self._read(data), len(data)
            theirs += found
            # What the teacher reads otherwise than it is written ends nowhere in the student's text.
            ends.append(np.where(places >= 0, base + places, -1))
            base += length
        lead = [] if self._start is None or theirs[:1] == [self._start] else [self._start]
        joined = np.concatenate([np.full(len(lead), -1), *ends])[: self._longest]
        student, teacher = _common(ours, joined)
        return AlignedText(
            ids=np.array([*lead, *theirs][: self._longest], dtype=np.int32), student=student, teacher=teacher
        )

    def _runs(self, ids: np.ndarray) -> list[tuple[int, int]]:
        """Bounds of what is text, and of each marker."""
        markers = np.flatnonzero(np.isin(ids, list(self._roles)))
        cuts = np.unique(np.concatenate([[0], markers, markers + 1, [len(ids)]])).tolist()
        return list(itertools.pairwise(cuts))

    def _read(self, data: bytes) -> tuple[list[int], np.ndarray]:
        """The teacher's tokens of some text, and the byte at which each ends; −1 from where it reads other bytes on."""
        whole = _whole_characters(data)
        text = data[whole].decode("utf-8", errors="replace")
        found: list[int] = self._teacher.backend_tokenizer.encode(text, add_special_tokens=False).ids
        pieces = [self._theirs[token] for token in found]
        read = b"".join(pieces)
        # SentencePiece puts a space before the first word.
        extra = int(read[:1] == b" " and data[whole][:1] != b" ")
        pairs = zip(read[extra:], data[whole], strict=False)
        equal = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(read) - extra, len(data[whole])))
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - extra
        return found, np.where((ends >= 0) & (ends <= equal), ends + whole.start, -1)


def token_bytes(tokenizer: PreTrainedTokenizerBase, whose: str) -> list[bytes]:
    """The bytes that each token stands for; of a marker its name. Raises UserError where tokens have none."""
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if '"ByteLevel"' in decoder:
        to_byte = byte_vocabulary()

        def of(piece: str) -> bytes:
            known = all(character in to_byte for character in piece)
            return bytes(to_byte[character] for character in piece) if known else piece.encode()

    elif '"ByteFallback"' in decoder:

        def of(piece: str) -> bytes:
            byte = _BYTE_PIECE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()

    else:
        raise UserError(
            f"the tokenizer of {whose} does not keep the bytes of its text, so its tokens can't be matched with "
            "another's",
            hint="use one of byte-level BPE or SentencePiece with byte fallback, or give both models one tokenizer",
        )
    added = {number: token.content.encode() for number, token in tokenizer.added_tokens_decoder.items()}
    return [added[number] if number in added else of(piece or "") for number, piece in enumerate(pieces)]


def _whole_characters(data: bytes) -> slice:
    """Where UTF-8 begins and ends that may have been cut within a character."""
    start, stop = 0, len(data)
    while start < min(3, stop) and data[start] & 0xC0 == 0x80:
        start += 1
    for back in range(1, min(4, stop - start) + 1):
        byte = data[stop - back]
        if byte & 0xC0 == 0x80:
            continue
        length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return slice(start, stop - back if length > back else stop)
    return slice(start, stop)


def _common(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of equal ends. Of tokens that end at one place the last has read most."""
    found = []
    for ends in (ours, theirs):
        values, from_last = np.unique(ends[::-1], return_index=True)
        found.append((values, len(ends) - 1 - from_last))
    (left, left_place), (right, right_place) = found
    _, a, b = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    keep = left[a] > 0
    return left_place[a[keep]], right_place[b[keep]]
