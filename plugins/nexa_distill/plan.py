"""What a capture will do: a pure function of recipe and data. Rows of shards, passes of rows, and what names them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nexa.errors import UserError
from nexa.manifest import canonical_json
from nexa_distill.records import RecordSpec, require_vocabulary
from nexa_distill.teacher import TeacherName, require_same_tokens
from nexa_torch.data.fingerprint import tokenizer_fingerprint
from nexa_torch.data.hashes import HashMemory
from nexa_torch.data.prepare import PreparedData, data_cache, loss_on_answers, prepare_data
from nexa_torch.data.store import TokenStore

if TYPE_CHECKING:
    from nexa.backend import PrepareProgress
    from nexa.recipe.schema import Recipe

_BUCKET = 64
"""Rows of a pass on a GPU are padded to a multiple of so many tokens, so that there are few shapes."""
GPU_FORWARD_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The pieces of documents of one shard; int64 [P] each.

    document: number in the prepared data. position: place of the first token in its document. start: its place in the
    token store. length: tokens. continues: whether the document goes on, so that the last token has a next one.
    """

    number: int
    document: np.ndarray
    position: np.ndarray
    start: np.ndarray
    length: np.ndarray
    continues: np.ndarray

    @property
    def name(self) -> str:
        """File name without its ending."""
        return f"{self.number:05d}"

    @property
    def tokens(self) -> int:
        """Tokens of all pieces."""
        return int(self.length.sum())


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """Everything a process needs to capture shards.

    identity: JSON values on which the bytes depend. store: folder and file names of the token store.
    recorded: positions that get a prediction. forward_tokens: None for one row a pass.
    """

    identity: dict[str, Any]
    teacher: TeacherName
    spec: RecordSpec
    seed: int
    vocabulary: int
    forward_tokens: int | None
    shards: list[ShardPlan]
    tokens: int
    recorded: int
    store: tuple[Path, tuple[str, ...]]

    @property
    def key(self) -> str:
        """SHA-256 of the identity, in hex."""
        return hashlib.sha256(canonical_json(self.identity)).hexdigest()

    @property
    def expected_bytes(self) -> int:
        """Size of the dataset: about, since the number of different draws depends on the teacher."""
        return self.recorded * self.spec.expected_bytes + (self.tokens - self.recorded) * 3


def make_plan(recipe: Recipe, *, gpus: int = 0, on_progress: PrepareProgress | None = None) -> CapturePlan:
    """Plan the capture of a recipe's training rows. Prepares its data; loads no model.

    Raises UserError and DataError where data, tokenizer and teacher can't be used, or don't fit together.
    """
    if recipe.data.streaming:
        raise UserError("streamed data can't be captured: it has no end", hint="set data.streaming=false")
    teacher = TeacherName.of(recipe)
    teacher.source()
    data = prepare_data(recipe, on_progress=on_progress)
    require_vocabulary(len(data.tokenizer))
    require_same_tokens(teacher, data.tokenizer)
    capture = recipe.distill.capture
    spec = RecordSpec.of(capture.record, draws=capture.draws, head=capture.head, temperature=recipe.distill.temperature)
    forward_tokens = capture.forward_tokens or (GPU_FORWARD_TOKENS if gpus else None)
    rows = data.train
    assert not isinstance(rows, str)
    assert isinstance(rows.source, TokenStore)
    store = rows.source  # type: ignore[union-attr]
    shards = _shards(data, store, capture.shard_tokens)
    return CapturePlan(
        identity=_identity(recipe, data, teacher, spec, forward_tokens),
        teacher=teacher,
        spec=spec,
        seed=recipe.training.seed,
        vocabulary=len(data.tokenizer),
        forward_tokens=forward_tokens,
        shards=shards,
        tokens=sum(shard.tokens for shard in shards),
        recorded=rows.trained_token_count,
        store=(store.folder, tuple(store.names)),
    )


def data_identity(recipe: Recipe, data: PreparedData) -> dict[str, Any]:
    """What tells one set of training documents from another."""
    held = recipe.data.validation
    return {
        "sha256": data.dataset_hash,
        "documents": data.documents,
        "format": recipe.data.format,
        "answers_only": loss_on_answers(recipe),
        "row_length": data.row_length,
        "held_out": None if held.fraction is None else [held.fraction, recipe.training.seed],
    }


def tokenizer_identity(data: PreparedData) -> dict[str, Any]:
    """What tells one tokenizer, with its chat template, from another."""
    template = data.tokenizer.chat_template or ""
    return {
        "sha256": tokenizer_fingerprint(data.tokenizer),
        "vocabulary": len(data.tokenizer),
        "chat_template_sha256": hashlib.sha256(str(template).encode()).hexdigest(),
    }


def _identity(
    recipe: Recipe, data: PreparedData, teacher: TeacherName, spec: RecordSpec, forward_tokens: int | None
) -> dict[str, Any]:
    return {
        "teacher": {
            "name": teacher.name,
            "revision": teacher.revision,
            "precision": teacher.precision,
            "sha256": teacher.sha256(HashMemory(data_cache(recipe.data))),
        },
        "tokenizer": tokenizer_identity(data),
        "data": data_identity(recipe, data),
        "record": {
            "mode": spec.mode,
            "draws": spec.draws,
            "head": spec.head,
            "temperature": spec.temperature,
            "seed": recipe.training.seed,
            "forward_tokens": forward_tokens,
            "shard_tokens": recipe.distill.capture.shard_tokens,
        },
        "software": {name: metadata.version(name) for name in ("torch", "transformers")},
    }


def _shards(data: PreparedData, store: TokenStore, shard_tokens: int) -> list[ShardPlan]:
    """The pieces of all training rows in the order of their documents, cut into shards."""
    segments = data.train.segments  # type: ignore[union-attr]
    order = np.argsort(segments.start, kind="stable")
    start, length, document = (np.asarray(part)[order] for part in (segments.start, segments.length, segments.document))
    continues = np.asarray(segments.continues)[order].astype(bool)
    lengths = store.lengths()
    position = start - (np.cumsum(lengths) - lengths)[document]
    number = (np.cumsum(length) - length) // shard_tokens
    # A piece longer than a shard leaves numbers out; shards are counted without gaps.
    _, firsts = np.unique(number, return_index=True)
    bounds = [*firsts.tolist(), len(number)]
    return [
        ShardPlan(
            number=index,
            document=document[low:high],
            position=position[low:high],
            start=start[low:high],
            length=length[low:high],
            continues=continues[low:high],
        )
        for index, (low, high) in enumerate(itertools.pairwise(bounds))
    ]


def passes(lengths: np.ndarray, forward_tokens: int | None) -> Iterator[tuple[np.ndarray, int, int]]:
    """How the pieces of a shard are put into passes: (indices of pieces, rows, width).

    One piece a pass, exactly as wide, where forward_tokens is None. Else pieces of about the same length together, in
    passes of one shape for each width; what a pass has too few of is filled with repetitions.
    """
    order = np.argsort(-lengths, kind="stable")
    if forward_tokens is None:
        for index in order:
            yield np.array([index]), 1, int(lengths[index])
        return
    widths = -(-lengths // _BUCKET) * _BUCKET
    for width in np.unique(widths)[::-1].tolist():
        members = order[widths[order] == width]
        rows = max(1, forward_tokens // width)
        for first in range(0, len(members), rows):
            yield members[first : first + rows], rows, width
