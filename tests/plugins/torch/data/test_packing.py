"""Packing keeps every token, cuts nothing that fits, and wastes little."""

from __future__ import annotations

import numpy as np
import pytest

from nexa_torch.data.packing import arrange, pack, split_document
from nexa_torch.data.rows import IGNORED, Rows, Segment

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
def test_pack_is_best_fit_decreasing(seed: int, row_length: int) -> None:
    lengths = _lengths(seed, row_length)
    rows = pack(lengths, row_length)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    loads = [int(lengths[row].sum()) for row in rows]
    assert max(loads) <= row_length
    assert sorted(loads) == _best_fit_decreasing(lengths.tolist(), row_length)
    assert pack(lengths, row_length) == rows


def test_pack_wastes_little() -> None:
    lengths = np.minimum(np.random.default_rng(0).lognormal(4.5, 0.8, size=20_000).astype(int) + 1, 512)
    rows = pack(lengths, 512)
    assert 1 - lengths.sum() / (len(rows) * 512) < 0.002


def test_pack_of_nothing_is_nothing() -> None:
    assert pack(np.array([], dtype=np.int64), 8) == []


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 50])
def test_split_document_keeps_every_prediction_once(length: int) -> None:
    pieces = split_document(100, length, 8)
    predicted = [
        place for piece in pieces for place in range(piece.start + 1, piece.start + piece.length + piece.continues)
    ]
    assert predicted == list(range(101, 100 + length))
    assert all(1 <= piece.length <= 8 for piece in pieces)


def _random_rows(seed: int, *, packing: bool) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of random documents, some longer than a row; also tokens, mask and document numbers."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, size=50)
    tokens = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    trained = generator.random(len(tokens)) < 0.5
    starts = np.cumsum(lengths) - lengths
    segments = [
        piece for start, n in zip(starts, lengths, strict=True) for piece in split_document(int(start), int(n), 16)
    ]
    rows = Rows(
        tokens=tokens, trained=trained, segments=arrange(segments, 16, packing=packing), row_length=16, pad_id=0
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
    assert rows.trained_token_count == len(labels)
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
    segments = [[Segment(start=0, length=3, continues=False)], [Segment(start=3, length=11, continues=False)]]
    rows = Rows(
        tokens=np.arange(14, dtype=np.int32), trained=np.ones(14, bool), segments=segments, row_length=12, pad_id=99
    )
    assert rows.take([0]).input_ids.shape == (1, 8)
    assert rows.take([1, 0]).input_ids.shape == (2, 12)
    assert rows.take([0]).input_ids.tolist() == [[0, 1, 2, 99, 99, 99, 99, 99]]
    assert rows.take([0]).labels.tolist() == [[1, 2] + [IGNORED] * 6]
    assert rows.take([]).input_ids.shape == (0, 0)
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows.take([2])
