"""However a batch is cut, packed, spread and recomputed, the same losses and gradients come out, for every method.

Each way to train is compared with the plainest: one process, 8 rows at once, no packing, no recomputation. The
last step has 4 rows only. `arithmetic` states the tolerances, and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic import (
    BATCH,
    DOCUMENTS,
    LANGUAGE_METHODS,
    METHODS,
    PLAIN_METHODS,
    Trace,
    assert_same,
    recipe_document,
    run,
)
from starting import start

Sections = dict[str, dict[str, Any]]

CUTS: Mapping[str, Sections] = {
    f"{micro}x{BATCH // micro}": {
        "training": {"microbatch_size_per_gpu": micro, "grad_accumulation_steps": BATCH // micro}
    }
    for micro in (4, 1)
}
"""Ways to divide a step's 8 rows."""
WORKERS: Sections = {"data": {"loader_workers": 2}}
LANGUAGE_WAYS: Mapping[str, Sections] = {
    "checkpointing": {"training": {"activation_checkpointing": True}},
    "selective-checkpointing": {"training": {"activation_checkpointing": "selective"}},
    "chunked-loss": {"torch": {"loss_chunk": 16, "cpu_matmul": "native"}},
}
ONE_STEP: Sections = {"training": {"microbatch_size_per_gpu": 1, "grad_accumulation_steps": DOCUMENTS}}
"""One step over all documents, which is the same step whether they share rows or not."""
PACKED: Sections = {**ONE_STEP, "data": {"packing": True}}
EVERYTHING: Sections = {
    "training": {**ONE_STEP["training"], "grad_accumulation_steps": DOCUMENTS // 2, "activation_checkpointing": True},
    "data": {"packing": True, "loader_workers": 0},
    "torch": {"loss_chunk": 16, "cpu_matmul": "native"},
    "cluster": {"processes_per_node": 2, "threads_per_process": 1},
    "distributed": {"strategy": "fsdp"},
}
"""All of it together: packed, one row at a time, recomputed, in chunks, on two processes with a shard each."""

Train = Callable[..., Trace]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[str], Trace]:
    """What the plainest run of a method computes."""
    return cache(lambda method: run(recipe_document(method, folder)))


@pytest.fixture(scope="module")
def one_step(folder: Path) -> Callable[[str], Trace]:
    """What one step over all documents, each in a row of its own, computes."""
    return cache(lambda method: run(recipe_document(method, folder, **ONE_STEP)))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("method", METHODS)
def test_cuts_of_a_batch(method: str, cut: str, folder: Path, whole: Callable[[str], Trace]) -> None:
    expected = whole(method)
    assert len(expected.losses) == -(-DOCUMENTS // BATCH)
    assert_same(run(recipe_document(method, folder, **CUTS[cut])), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_that_does_not_divide_the_last_step(method: str, folder: Path) -> None:
    """Steps of 9 rows, 3 × 3 or 9 at once: the last has 2 rows, less than one microbatch."""
    cut, together = ({"microbatch_size_per_gpu": n, "grad_accumulation_steps": 9 // n} for n in (3, 9))
    expected = run(recipe_document(method, folder, training=together))
    assert_same(run(recipe_document(method, folder, training=cut)), expected)


@pytest.mark.parametrize("method", ["sft", "regression"])
def test_loader_workers(method: str, folder: Path, whole: Callable[[str], Trace]) -> None:
    found = run(recipe_document(method, folder, **WORKERS))
    expected = whole(method)
    assert found.losses == expected.losses
    assert_same(found, expected)


@pytest.mark.parametrize("way", LANGUAGE_WAYS)
@pytest.mark.parametrize("method", LANGUAGE_METHODS)
def test_memory_savings(method: str, way: str, folder: Path, whole: Callable[[str], Trace]) -> None:
    assert_same(run(recipe_document(method, folder, **LANGUAGE_WAYS[way])), whole(method))


@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_plain_loss(method: str, folder: Path, whole: Callable[[str], Trace]) -> None:
    """The fused loss against torch's own over the logits of the model's own forward pass."""
    assert_same(whole(method), run(recipe_document(method, folder), plain_loss=True))


@pytest.mark.parametrize("method", LANGUAGE_METHODS)
def test_packing(method: str, folder: Path, one_step: Callable[[str], Trace]) -> None:
    assert_same(run(recipe_document(method, folder, **PACKED)), one_step(method))


@pytest.fixture(scope="module")
def spread(folder: Path) -> Callable[[str], Trace]:
    """What two processes compute, by the name of a case; started once for all."""
    two = {"processes_per_node": 2, "threads_per_process": 1}
    half = {"microbatch_size_per_gpu": 2, "grad_accumulation_steps": BATCH // 4}
    cases = {
        f"{method}-{strategy}": recipe_document(
            method, folder, training=half, cluster=two, distributed={"strategy": strategy}
        )
        for method in METHODS
        for strategy in ("ddp", "fsdp")
    }
    cases |= {f"{method}-everything": recipe_document(method, folder, **EVERYTHING) for method in LANGUAGE_METHODS}
    file = folder / "cases.json"
    file.write_text(json.dumps(cases), encoding="utf-8")
    start(str(Path(__file__).with_name("rank_worker.py")), str(file), str(folder)).succeed()
    return lambda name: Trace(**torch.load(folder / f"{name}.pt"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes(
    method: str, strategy: str, spread: Callable[[str], Trace], whole: Callable[[str], Trace]
) -> None:
    assert_same(spread(f"{method}-{strategy}"), whole(method))


@pytest.mark.parametrize("method", LANGUAGE_METHODS)
def test_everything_at_once(method: str, spread: Callable[[str], Trace], one_step: Callable[[str], Trace]) -> None:
    assert_same(spread(f"{method}-everything"), one_step(method))
