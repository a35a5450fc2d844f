"""No recipe field is accepted by the engine and then ignored: each changes what counts, and real runs read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.conformance.model import write_model
from nexa.settings_report import CORE_FIELDS
from nexa.testing.reads import recorded_reads
from nexa.testing.recipes import tiny_recipe
from nexa.testing.settings import SettingsContract

pytest.importorskip("torch")
from running import Run

from nexa_torch.backend import TorchBackend

CONTEXTS: list[dict[str, Any]] = [
    {"data.validation.fraction": 0.2, "training.eval_every_steps": 2, "training.early_stopping": {"patience": 3}},
    {"data.streaming": True, "training.precision": "bf16"},
    {"optimizer.name": "sophia", "optimizer.scheduler.name": "wsd"},
    {"optimizer.name": "muon", "optimizer.scheduler.name": "cosine_with_restarts"},
    {"optimizer.scheduler.name": "plateau", "training.eval_every_steps": 2, "data.validation.fraction": 0.2},
    {"training.activation_checkpointing": True, "samples.prompts": ["Name a colour."]},
    {"distributed.strategy": "fsdp", "training.epochs": 1, "training.max_steps": None},
]
SHARDED = {"distributed.reshard_after_forward"}
"""Read where several processes share a model, which `distributed/` tests."""


class TestTorchSettings(SettingsContract):
    plugin_name = "torch"
    contexts: ClassVar[list[dict[str, Any]]] = [
        *CONTEXTS,
        {"adapter.rank": 4},
        {"cluster.gpus_per_node": 2, "distributed.strategy": "fsdp"},
        {"data.remote_uri": "hf:org/rows", "data.validation.split": "test"},
        {"method": "pretrain"},
        {"method": "regression"},
    ]


def test_real_runs_read_every_setting_that_counts(tmp_path: Path) -> None:
    """What `effective` lists is what training looks at, over runs that together use every part of the engine."""
    counts: set[str] = set()
    read: set[str] = set()
    adapted = {"model": {"name": str(write_model(tmp_path / "model"))}, "adapter": {"rank": 4}}
    for number, context in enumerate([adapted, *CONTEXTS]):
        recipe = tiny_recipe(tmp_path / str(number), {"training.save_every_steps": None, **context})
        assert list(TorchBackend().check(recipe)) == []
        counts |= set(TorchBackend().effective(recipe)) & set(recipe.leaf_paths())
        run = Run(tmp_path / f"run-{number}", recipe.document())
        with recorded_reads() as reads:
            run.attempt()
        read |= reads
    assert counts - read - CORE_FIELDS - SHARDED == set()
