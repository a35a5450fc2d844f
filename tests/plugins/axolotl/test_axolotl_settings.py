"""No recipe field is accepted by the Axolotl backend and then ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nexa.testing.settings import SettingsContract


class TestAxolotlSettings(SettingsContract):
    """On CPU and on GPUs, in full and with an adapter."""

    plugin_name = "axolotl"
    contexts: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"data.validation.fraction": 0.1, "training.eval_every_steps": 2, "optimizer.name": "sgd"},
        {"adapter.type": "lora", "cluster.gpus_per_node": 2, "distributed.strategy": "fsdp"},
        {"optimizer.scheduler.name": "wsd", "training.early_stopping.patience": 3},
        {"method": "pretrain", "data.packing": False},
        {"method": "dpo"},
        {"method": "kto", "model.chat_template": None},
        {"method": "orpo"},
    )
