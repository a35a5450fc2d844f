"""Batch arithmetic."""

from __future__ import annotations

import pytest

from nexa.batch import resolve_batch
from nexa.errors import RecipeError
from nexa.recipe.sections.training import TrainingSection


@pytest.mark.parametrize(
    ("micro", "given", "accumulation", "world", "expected"),
    [
        (1, None, None, 1, (1, 1)),
        (4, None, None, 8, (32, 1)),
        (4, None, 3, 8, (96, 3)),
        (4, 32, None, 8, (32, 1)),
        (4, 1024, None, 32, (1024, 8)),
        (2, 8, 4, 1, (8, 4)),
    ],
)
def test_what_is_open_is_filled_in(
    micro: int, given: int | None, accumulation: int | None, world: int, expected: tuple[int, int]
) -> None:
    training = TrainingSection(
        microbatch_size_per_gpu=micro, global_batch_size=given, grad_accumulation_steps=accumulation
    )
    plan = resolve_batch(training, world)
    assert (plan.global_batch_size, plan.accumulation_steps) == expected
    assert plan.microbatch_size * plan.accumulation_steps * plan.world_size == plan.global_batch_size
    assert str(plan.global_batch_size) in str(plan)


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_batch(TrainingSection(microbatch_size_per_gpu=3, global_batch_size=32), 4)
    message = str(caught.value)
    assert "training.global_batch_size: 32 rows do not divide by 3 rows × 4 processes = 12" in message
    assert "use 24 or 36" in message


def test_a_batch_smaller_than_one_pass_names_the_smallest() -> None:
    with pytest.raises(RecipeError, match="use 8, or another"):
        resolve_batch(TrainingSection(microbatch_size_per_gpu=4, global_batch_size=6), 2)


def test_a_contradiction_is_refused_with_the_numbers() -> None:
    training = TrainingSection(microbatch_size_per_gpu=2, global_batch_size=32, grad_accumulation_steps=3)
    with pytest.raises(RecipeError, match=r"32 rows contradict 2 rows × 1 process × 3 accumulation steps = 6"):
        resolve_batch(training, 1)
