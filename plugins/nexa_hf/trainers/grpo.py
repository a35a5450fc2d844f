"""GRPO with a reference model that is given, instead of one that is loaded from where the model came from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from trl import GRPOTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOConfig


class ReferencedGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer; `ref_model` is what the divergence is measured from, None for a model with an adapter."""

    def __init__(self, *, args: GRPOConfig, ref_model: PreTrainedModel | None = None, **arguments: Any) -> None:
        if ref_model is None:
            super().__init__(args=args, **arguments)
            return
        # Without a divergence to measure, TRL loads no model of its own.
        without = copy.copy(args)
        without.beta = 0.0
        super().__init__(args=without, **arguments)
        self.args.beta = self.beta = args.beta
        self.ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
