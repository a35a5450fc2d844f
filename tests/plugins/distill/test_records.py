"""Records: what is written is read again, in the bytes that are promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexa.errors import DataError, UserError, WorkerError
from nexa_distill.records import Predictions, RecordSpec, pack_entries, require_vocabulary, unpack_entries
from nexa_distill.sampling import record, uniform
from nexa_distill.shards import BLOCK, Pieces, Shard, write_shard

SPECS = [RecordSpec.of(mode, draws=20, head=4) for mode in ("sampled", "top_k", "hybrid")]


def _recorded(spec, n, *, vocabulary=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, vocabulary, generator=generator)
    following = torch.randint(0, vocabulary, (n,), generator=generator)
    u = uniform(seed, np.zeros(n), np.arange(n))
    return logits, record(logits, following, u, spec)


def test_ids_of_18_bits_and_counts_of_6_survive():
    """Every pair of extremes, and everything between."""
    ids = np.array([0, 1, 65535, 65536, 131071, 262143], dtype=np.int32).repeat(64)
    counts = np.tile(np.arange(64, dtype=np.uint8), 6)
    low, high = pack_entries(ids, counts)
    assert (low.nbytes + high.nbytes) == 3 * len(ids)
    found = unpack_entries(low, high)
    assert np.array_equal(found[0], ids)
    assert np.array_equal(found[1], counts)


def test_a_vocabulary_of_more_than_18_bits_is_refused():
    """Rather than stored wrongly."""
    require_vocabulary(1 << 18)
    with pytest.raises(UserError, match="262,145"):
        require_vocabulary((1 << 18) + 1)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.mode)
def test_a_shard_holds_what_was_recorded(tmp_path, spec):
    """Any range of rows, across blocks, with rows that were not recorded among them."""
    rng = np.random.default_rng(1)
    n = 3 * BLOCK + 17
    kept = np.flatnonzero(rng.random(n) < 0.6)
    _, (found, quality) = _recorded(spec, len(kept))
    entries = np.zeros(n, dtype=np.uint8)
    entries[kept] = found.entries
    whole = Predictions(**{**vars(found), "entries": entries})
    tokens = rng.integers(0, 300, n)
    trained = rng.random(n) < 0.5
    pieces = Pieces(document=np.array([2, 5]), position=np.array([0, 7]), length=np.array([100, n - 100]))
    write_shard(tmp_path / "a.safetensors", pieces, tokens, trained, whole, vocabulary=300)
    shard = Shard(tmp_path / "a.safetensors")
    assert np.array_equal(shard.tokens, tokens)
    assert np.array_equal(shard.trained(), trained)
    assert shard.recorded == quality.rows == len(kept)
    ends = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
    for start, stop in ((0, n), (0, 1), (BLOCK - 1, BLOCK + 1), (300, 700), (n - 1, n), (5, 5)):
        part = shard.read(start, stop)
        assert np.array_equal(part.entries, entries[start:stop])
        assert np.array_equal(part.ids, found.ids[ends[start] : ends[stop]])
        expected = whole.weights(spec)[ends[start] : ends[stop]]
        np.testing.assert_allclose(part.weights(spec), expected, atol=4e-3)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.mode)
def test_selected_rows_are_those_of_the_whole(spec):
    """`select` keeps entries, counts and exact heads together."""
    _, (found, _) = _recorded(spec, 50)
    entries = found.entries.copy()
    chosen = np.array([0, 3, 4, 49])
    part = found.select(chosen, spec.head)
    ends = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
    spans = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in chosen])
    assert np.array_equal(part.ids, found.ids[spans])
    np.testing.assert_array_equal(part.weights(spec), found.weights(spec)[spans])


def test_the_head_is_the_top_and_its_probabilities_are_exact():
    """Of top-k and hybrid records."""
    logits, (found, _) = _recorded(SPECS[2], 20)
    exact = found.ids[found.counts == 0].reshape(20, 4)
    assert np.array_equal(np.sort(exact), np.sort(logits.topk(4).indices.numpy()))
    weights = found.weights(SPECS[2])[found.counts == 0].reshape(20, 4)
    p = torch.softmax(logits, -1).gather(1, torch.from_numpy(exact).long())
    np.testing.assert_allclose(weights, p, rtol=1e-5)


def test_a_row_does_not_depend_on_those_beside_it():
    """Draws are named by document and place, so a batch of any size records the same."""
    spec = SPECS[0]
    logits, (whole, _) = _recorded(spec, 150)
    following = torch.zeros(150, dtype=torch.long)
    u = uniform(0, np.zeros(150), np.arange(150))
    parts = [record(logits[i : i + 7], following[i : i + 7], u[i : i + 7], spec)[0] for i in range(0, 150, 7)]
    joined = Predictions.join(parts)
    assert np.array_equal(joined.ids, whole.ids)
    assert np.array_equal(joined.counts, whole.counts)


def test_numbers_of_places_are_uniform():
    """Mean and variance of u over places, and no two places share one."""
    u = uniform(1, np.arange(20_000) // 100, np.arange(20_000) % 100)
    assert abs(u.mean() - 0.5) < 4 / (12 * 20_000) ** 0.5
    assert abs(u.var() - 1 / 12) < 0.003
    assert len(np.unique(u)) == len(u)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_refused(bad):
    """Rather than recorded as something."""
    logits = torch.zeros(3, 10)
    logits[1, 2] = bad
    with pytest.raises(WorkerError, match="not numbers"):
        record(logits, torch.zeros(3, dtype=torch.long), np.zeros(3), SPECS[0])


def test_a_file_that_is_no_shard_is_named(tmp_path):
    """Missing, empty, or of something else."""
    with pytest.raises(DataError, match="is missing"):
        Shard(tmp_path / "none.safetensors")
    for content in (b"", b"hello, this is text", (30).to_bytes(8, "little") + b"{" * 40):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            Shard(tmp_path / "bad.safetensors")
