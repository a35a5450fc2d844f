"""Which checkpoints rotation takes away."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nexa.worker.retention import Retention, metric_value, smaller_is_better


def saved(*losses: float | None) -> list[tuple[str, dict[str, float]]]:
    """Checkpoints 1, 2, 3 … with these losses on held-out data."""
    return [
        (str(step), {} if loss is None else {"eval_loss": loss, "eval_accuracy": 1 - loss})
        for step, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("options", "losses", "gone"),
    [
        ({}, (3.0, 2.0, 1.0), []),
        ({"keep_last": 2}, (3.0, 2.0, 1.0), ["1"]),
        ({"keep_last": 1}, (3.0, 1.0, 2.0), ["1"]),
        ({"keep_last": 1, "keep_best": 0}, (3.0, 1.0, 2.0), ["1", "2"]),
        ({"keep_last": 1, "keep_best": 2}, (0.5, 1.0, 2.0, 3.0), ["3"]),
        ({"keep_last": 1, "mode": "max"}, (3.0, 1.0, 2.0), ["2"]),
        ({"keep_last": 1, "monitor": "val_accuracy"}, (0.3, 0.1, 0.2), ["1"]),
        ({"keep_last": 1}, (None, None, None), ["1", "2"]),
        ({"keep_last": 1}, (math.nan, 2.0, 3.0), ["1"]),
        ({"keep_last": 1}, (1.0, 1.0, 1.0, 4.0), ["2", "3"]),
        ({"keep_last": 9}, (1.0, 2.0), []),
    ],
)
def test_what_goes(options: dict[str, Any], losses: tuple[float | None, ...], gone: list[str]) -> None:
    assert Retention(**options).superfluous(saved(*losses)) == gone


def test_it_is_read_from_a_recipe_s_section() -> None:
    section = {"keep_last": 3, "keep_best": 2, "monitor": "eval_mae", "mode": "min", "save_optimizer": True}
    assert Retention.of(section) == Retention(keep_last=3, keep_best=2, monitor="eval_mae", mode="min")
    assert Retention.of({}) == Retention()


def test_val_and_eval_are_one_prefix() -> None:
    assert metric_value({"eval_loss": 2.0}, "val_loss") == 2.0
    assert metric_value({"val_loss": 2.0}, "eval_loss") == 2.0
    assert metric_value({"loss": 2.0}, "eval_loss") is None


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("val_loss", True), ("perplexity", True), ("eval_word_error", True), ("eval_accuracy", False), ("f1", False)],
)
def test_auto_goes_by_name(name: str, smaller: bool) -> None:
    assert smaller_is_better(name, "auto") is smaller
    assert smaller_is_better(name, "max") is False


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="best"):
        smaller_is_better("loss", "best")
