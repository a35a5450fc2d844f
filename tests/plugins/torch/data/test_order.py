"""The order of rows is a pure function of seed, epoch and step."""

from __future__ import annotations

import numpy as np
import pytest

from nexa.recipe.sections.training import TrainingSection
from nexa_torch.data.order import row_order, rows_at, rows_of_microbatch, run_length


def test_every_epoch_is_another_permutation() -> None:
    orders = [row_order(7, epoch, 1000) for epoch in range(4)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert not np.array_equal(row_order(8, 0, 1000), orders[0])


def test_order_is_the_same_on_every_machine() -> None:
    """A resumed run may continue on another machine: these numbers must never change."""
    assert row_order(42, 0, 10).tolist() == [0, 9, 6, 3, 1, 5, 2, 8, 4, 7]
    assert row_order(42, 3, 10).tolist() == [7, 6, 5, 3, 2, 0, 4, 1, 9, 8]


def test_rows_at_runs_through_epochs() -> None:
    whole = np.concatenate([row_order(1, epoch, 5) for epoch in range(4)])
    for start in range(15):
        for stop in range(start, 20):
            assert np.array_equal(rows_at(1, 5, start, stop), whole[start:stop])


def _step(step: int, *, n: int, total_rows: int, micro_size: int, accumulation: int, world: int) -> list[int]:
    """All rows of one step, over microbatches and ranks."""
    parts = [
        rows_of_microbatch(
            seed=3,
            n=n,
            step=step,
            micro=micro,
            rank=rank,
            world_size=world,
            microbatch_size=micro_size,
            accumulation_steps=accumulation,
            total_rows=total_rows,
        )
        for micro in range(accumulation)
        for rank in range(world)
    ]
    assert all(len(part) <= micro_size for part in parts)
    return np.concatenate(parts).tolist()


@pytest.mark.parametrize(
    ("micro_size", "accumulation", "world"), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)]
)
@pytest.mark.parametrize("n", [3, 8, 37])
def test_a_step_holds_the_same_rows_for_any_world_size(micro_size: int, accumulation: int, world: int, n: int) -> None:
    length = run_length(TrainingSection(epochs=2.5), n, 8)
    expected = rows_at(3, n, 0, length.total_rows).tolist()
    steps = [
        _step(step, n=n, total_rows=length.total_rows, micro_size=micro_size, accumulation=accumulation, world=world)
        for step in range(length.total_steps)
    ]
    assert [row for rows in steps for row in rows] == expected
    assert all(len(rows) == 8 for rows in steps[:-1])
    assert 1 <= len(steps[-1]) <= 8


@pytest.mark.parametrize(
    ("training", "n", "steps", "rows"),
    [
        ({"max_steps": 5}, 3, 5, 20),
        ({}, 10, 3, 10),
        ({"epochs": 2.0}, 10, 5, 20),
        ({"epochs": 0.1}, 30, 1, 3),
        ({"epochs": 0.001}, 10, 1, 1),
        ({"epochs": 1.1}, 10, 3, 11),
    ],
)
def test_run_length(training: dict[str, float], n: int, steps: int, rows: int) -> None:
    length = run_length(TrainingSection.model_validate(training), n, 4)
    assert (length.total_steps, length.total_rows) == (steps, rows)
