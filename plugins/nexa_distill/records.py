"""The record of one prediction: which tokens a teacher expects next, in about 35 bytes.

A row has up to 255 entries. An entry is a token id of 18 bits and a count of 6 bits, kept as two arrays:

    low    uint16   the id's lower 16 bits
    high   uint8    the id's upper 2 bits, then the count (0 to 63)

The first `head` entries of a row are exact: their count is 0 and `head_log_p` (float16) holds their natural log
probabilities. The others were drawn, `count` times of `draws`, from what the head leaves. So the weight of an entry is

    exact                     exp(log p)
    drawn, without a head     count ÷ draws
    drawn, behind a head      (1 − Σ exp(log p of the head)) × count ÷ draws

Weights of drawn rows have the teacher's distribution as their mean, so a loss that is linear in them is unbiased
(Anshumann et al. 2025, arXiv 2503.16870); they must not be normalised anew. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from nexa.errors import UserError

ID_BITS = 18
MAX_VOCABULARY = 1 << ID_BITS
_HIGH_SHIFT = 6
_COUNT_MASK = (1 << _HIGH_SHIFT) - 1

Mode = Literal["sampled", "top_k", "hybrid"]


@dataclass(frozen=True, kw_only=True)
class RecordSpec:
    """How rows are recorded. draws: tokens drawn, 0 for top_k. head: exact entries, 0 for sampled."""

    mode: Mode
    draws: int
    head: int
    temperature: float = 1.0

    @property
    def expected_entries(self) -> int:
        """Entries of a typical row: different tokens among draws grow as their number's power 0.7.

        Fitted to SmolLM2-135M on English documentation, 2.8 nats; it finds 1.3 times as many on Shakespeare.
        """
        return self.head + (0 if self.mode == "top_k" else round(1.2 * self.draws**0.7))

    @property
    def expected_bytes(self) -> int:
        """Bytes of a typical recorded row, its token included."""
        return 2 + 1 + 2 + 3 * self.expected_entries + 2 * self.head

    @classmethod
    def of(cls, mode: Mode, *, draws: int, head: int, temperature: float = 1.0) -> RecordSpec:
        """The spec of a mode, which uses draws, head or both."""
        return cls(
            mode=mode,
            draws=0 if mode == "top_k" else draws,
            head=0 if mode == "sampled" else head,
            temperature=temperature,
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of n positions as flat entries: row i's are the next `entries[i]` of `ids` and `counts`.

    entries: uint8 [n]. ids: int32 [E]. counts: uint8 [E], 0 where exact. head_log_p: float32 [n' × head], of the rows
    that have entries. truth_log_p: float32 [n'], log probability at temperature 1 of the token that follows.
    """

    entries: np.ndarray
    ids: np.ndarray
    counts: np.ndarray
    head_log_p: np.ndarray
    truth_log_p: np.ndarray

    @classmethod
    def join(cls, parts: list[Predictions]) -> Predictions:
        """Predictions one behind the other."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def select(self, chosen: np.ndarray, head: int) -> Predictions:
        """Predictions of some positions, ascending; head: exact entries of a row that has entries."""
        wanted = np.zeros(len(self.entries), dtype=bool)
        wanted[chosen] = True
        if wanted.all() or not self.entries[~wanted].any():
            return Predictions(
                entries=self.entries[chosen],
                ids=self.ids,
                counts=self.counts,
                head_log_p=self.head_log_p,
                truth_log_p=self.truth_log_p,
            )
        of_entries = np.repeat(wanted, self.entries)
        of_recorded = wanted[self.entries > 0]
        return Predictions(
            entries=self.entries[chosen],
            ids=self.ids[of_entries],
            counts=self.counts[of_entries],
            head_log_p=self.head_log_p[np.repeat(of_recorded, head)],
            truth_log_p=self.truth_log_p[of_recorded],
        )

    def weights(self, spec: RecordSpec) -> np.ndarray:
        """Weight of every entry, float32 [E]; a row's sum to 1, or to the head's mass for top_k."""
        if not spec.head:
            return self.counts.astype(np.float32) / np.float32(spec.draws)
        exact = np.exp(self.head_log_p.astype(np.float32))
        drawn = self.counts > 0
        weights = np.empty(len(self.ids), dtype=np.float32)
        weights[~drawn] = exact
        if spec.draws:
            rest = np.maximum(0.0, 1.0 - exact.reshape(-1, spec.head).sum(axis=1, dtype=np.float64))
            tails = self.entries[self.entries > 0].astype(np.int64) - spec.head
            weights[drawn] = np.repeat(rest, tails) * self.counts[drawn] / spec.draws
        return weights

    def rows(self) -> np.ndarray:
        """Row of every entry, int64 [E]."""
        return np.repeat(np.arange(len(self.entries)), self.entries)


def require_vocabulary(size: int) -> None:
    """Raise UserError where ids of a vocabulary do not fit a record."""
    if size > MAX_VOCABULARY:
        raise UserError(f"a vocabulary of {size:,} tokens does not fit records, whose ids end at {MAX_VOCABULARY:,}")


def pack_entries(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of entries: uint16 [E] and uint8 [E]."""
    low = ids.astype(np.uint16)
    high = (ids >> 16).astype(np.uint8) << _HIGH_SHIFT
    return low, high | counts.astype(np.uint8)


def unpack_entries(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [E], counts uint8 [E]) of what `pack_entries` made."""
    ids = low.astype(np.int32)
    ids |= (high >> _HIGH_SHIFT).astype(np.int32) << 16
    return ids, high & _COUNT_MASK
