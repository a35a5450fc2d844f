"""A plugin of Axolotl's that makes an adapter's first weights follow from the seed.

Axolotl seeds when it makes its trainer, after the model and its adapter: by itself it starts from other weights every
time. `plugins: [nexa_axolotl.seeding.SeededModel]` does the same for `axolotl train`.
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import set_seed

PLUGIN = "nexa_axolotl.seeding.SeededModel"


class SeededModel(BasePlugin):  # type: ignore[misc]
    """Seeds all random numbers before the model and before its adapter is made."""

    def pre_model_load(self, cfg: Any) -> None:
        """Seed, where the configuration has a seed."""
        _seed(cfg)

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Seed again: loading a model may draw numbers, and not always the same."""
        _seed(cfg)


def _seed(cfg: Any) -> None:
    if cfg.seed is not None:
        set_seed(cfg.seed)
