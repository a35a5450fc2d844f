"""Packing keeps every token, cuts nothing that fits, and wastes little."""

from __future__ import annotations

import numpy as np
import pytest

from nexa_torch.data.packing import Layout, Segments, arrange, pack, split_documents
from nexa_torch.data.rows import IGNORED, RowCounts, Rows
from nexa_torch.data.store import TokenArrays

SEEDS = range(20)


def _lengths(seed: int, row_length: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(1, row_length + 1, size=int(generator.integers(1, 400)))


def _best_fit_decreasing(lengths: list[int], row_length: int) -> list[int]:
    """Tokens of each row by the textbook's algorithm."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(row_length - length)
    return sorted(row_length - room for room in rooms)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("row_length", [1, 7, 64, 512])
def test_pack_fits_and_needs_no_more_rows(seed: int, row_length: int) -> None:
    lengths = _lengths(seed, row_length)
    rows = pack(lengths, row_length)
    loads = np.bincount(rows, weights=lengths)
    assert len(rows) == len(lengths)
    assert 0 < min(loads) <= max(loads) <= row_length
    assert len(loads) <= len(_best_fit_decreasing(lengths.tolist(), row_length))
    assert np.array_equal(pack(lengths, row_length), rows)


@pytest.mark.parametrize("row_length", [512, 1024])
def test_pack_wastes_little(row_length: int) -> None:
    lengths = np.minimum(np.random.default_rng(0).lognormal(4.5, 0.8, size=20_000).astype(int) + 1, row_length)
    rows = pack(lengths, row_length)
    assert 1 - lengths.sum() / ((rows.max() + 1) * row_length) < 0.0005


def test_pack_of_nothing_is_nothing() -> None:
    assert len(pack(np.array([], dtype=np.int64), 8)) == 0


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 50])
def test_split_keeps_every_prediction_once(length: int) -> None:
    pieces = split_documents(np.array([100, 300]), np.array([length, 3]), 8)
    first = pieces.document == 0
    predicted = [
        place
        for start, count, continues in zip(
            pieces.start[first], pieces.length[first], pieces.continues[first], strict=True
        )
        for place in range(start + 1, start + count + continues)
    ]
    assert predicted == list(range(101, 100 + length))
    assert all((pieces.length >= 1) & (pieces.length <= 8))
    assert (pieces.start[-1], pieces.length[-1], pieces.continues[-1]) == (300, 3, False)


def _random_rows(seed: int, *, packing: bool) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of random documents, some longer than a row; also tokens, mask and document numbers."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, size=50)
    tokens = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    trained = generator.random(len(tokens)) < 0.5
    starts = np.cumsum(lengths) - lengths
    layout = arrange(split_documents(starts, lengths, 16), 16, packing=packing)
    rows = Rows(
        source=TokenArrays(tokens, trained),
        layout=layout,
        counts=RowCounts(tokens=len(tokens), trained_tokens=int(trained.sum()), largest_token=len(tokens)),
        row_length=16,
        pad_id=0,
    )
    return rows, tokens, trained, np.repeat(np.arange(50), lengths)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_rows_predict_every_trained_token_exactly_once(seed: int, packing: bool) -> None:
    rows, tokens, trained, document_of = _random_rows(seed, packing=packing)
    batch = rows.take(range(len(rows)), full_width=True)
    assert batch.input_ids.shape == (len(rows), 16)
    starts_document = np.diff(document_of, prepend=-1) != 0
    labels = batch.labels[batch.labels != IGNORED]
    assert sorted(labels.tolist()) == tokens[trained & ~starts_document].tolist()
    # Each token is its own number from 1, so the token after x is x + 1.
    where = batch.labels != IGNORED
    assert np.array_equal(batch.input_ids[where] + 1, batch.labels[where])
    real = batch.document >= 0
    assert rows.token_count == real.sum()
    assert np.array_equal(rows.row_token_counts(), real.sum(axis=1))
    assert (batch.input_ids[~real] == 0).all()
    assert (batch.labels[~real] == IGNORED).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_positions_and_document_numbers_keep_documents_apart(seed: int) -> None:
    rows, _, _, document_of = _random_rows(seed, packing=True)
    batch = rows.take(range(len(rows)))
    for ids, positions, documents in zip(batch.input_ids, batch.positions, batch.document, strict=True):
        length = int((documents >= 0).sum())
        assert (documents[length:] == -1).all()
        assert (positions[length:] == 0).all()
        for number in range(int(documents.max()) + 1):
            place = np.flatnonzero(documents == number)
            assert np.array_equal(positions[place], np.arange(len(place)))
            assert len(set(document_of[ids[place] - 1])) == 1


def test_take_trims_padding_to_a_multiple_of_eight() -> None:
    segments = Segments(
        start=np.array([0, 3]), length=np.array([3, 11]), continues=np.zeros(2, bool), document=np.arange(2)
    )
    rows = Rows(
        source=TokenArrays(np.arange(14, dtype=np.int32), np.ones(14, bool)),
        layout=Layout(segments=segments, row_ends=np.array([1, 2])),
        counts=RowCounts(tokens=14, trained_tokens=12, largest_token=13),
        row_length=12,
        pad_id=99,
    )
    assert rows.take([0]).input_ids.shape == (1, 8)
    assert rows.take([1, 0]).input_ids.shape == (2, 12)
    assert rows.take([0]).input_ids.tolist() == [[0, 1, 2, 99, 99, 99, 99, 99]]
    assert rows.take([0]).labels.tolist() == [[1, 2] + [IGNORED] * 6]
    assert rows.take([]).input_ids.shape == (0, 0)
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows.take([2])
