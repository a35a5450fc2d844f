"""No recipe field is lost in this backend, and what it computes is what the conformance kit's reference computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.conformance.model import write_model
from nexa.testing.conformance import ConformanceContract
from nexa.testing.reads import recorded_reads
from nexa.testing.recipes import tiny_recipe
from nexa.testing.settings import SettingsContract
from nexa_hf.backend import HfBackend

pytest.importorskip("trl")

HELD_OUT = {"data.validation.fraction": 0.2, "training.eval_every_steps": 2}
READ: list[dict[str, Any]] = [
    {**HELD_OUT, "adapter.rank": 4, "samples.prompts": ["Name a colour."], "samples.max_new_tokens": 4},
    {
        **HELD_OUT,
        "training.early_stopping": {"patience": 9, "min_delta": 99.0},
        **{"training.epochs": 2, "training.max_steps": None, "training.eval_every_epochs": 1, "data.max_documents": 20},
    },
]
"""Recipes that together use what this backend heeds beside the arguments of transformers and TRL."""
REWARDS = {"rollouts.rewards": [{"name": "json"}]}


class TestHfSettings(SettingsContract):
    plugin_name = "hf"
    contexts: ClassVar[Sequence[Mapping[str, Any]]] = [
        {**HELD_OUT, "adapter.rank": 4, "optimizer.name": "sgd"},
        {"cluster.gpus_per_node": 2, "distributed.strategy": "fsdp", "optimizer.scheduler.name": "wsd"},
        {"method": "dpo"},
        {"method": "grpo", **REWARDS},
    ]


@pytest.mark.soak
class TestHfMoreSettings(SettingsContract):
    plugin_name = "hf"
    contexts: ClassVar[Sequence[Mapping[str, Any]]] = [
        *({"method": name} for name in ("pretrain", "kto", "orpo", "reward")),
        *({"optimizer.name": name} for name in ("adafactor", "lion")),
        {"optimizer.scheduler.name": "cosine_with_restarts", "training.activation_checkpointing": True},
        {"data.remote_uri": "hf:org/rows", "data.validation.split": "test"},
    ]


@pytest.mark.soak
class TestHfConformance(ConformanceContract):
    plugin_name = "hf"


@pytest.mark.soak
def test_real_runs_read_every_setting_that_counts(tmp_path: Path) -> None:
    """What `effective` lists beside the arguments is what training looks at."""
    from running import Run

    from nexa_hf.run import run_training

    model = {"model": {"name": str(write_model(tmp_path / "model"))}}
    counts: set[str] = set()
    read: set[str] = set()
    for number, context in enumerate(READ):
        recipe = tiny_recipe(tmp_path / str(number), {"backend": "hf", **model, **context})
        assert list(HfBackend().check(recipe)) == []
        counts |= set(HfBackend().effective(recipe)) & set(recipe.leaf_paths())
        run = Run(tmp_path / f"run-{number}", recipe.document(), train=run_training)
        with recorded_reads() as reads:
            run.attempt()
        read |= reads
    assert counts - read == set()
