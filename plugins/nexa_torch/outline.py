"""A language model without its weights: what rank 0 tells the others of a model that it alone has loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nexa_torch.kernels import attention
from nexa_torch.models import LanguageModel
from nexa_torch.sources import ModelSource

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class ModelOutline:
    """The shape of a model, and what was found out of it by computing with its weights. See `LanguageModel`."""

    config: PreTrainedConfig
    generation: GenerationConfig | None
    source: ModelSource
    fingerprint: str
    fused_head: bool
    takes_positions: bool
    attends_by_document: bool

    @classmethod
    def of(cls, model: LanguageModel) -> ModelOutline:
        """The outline of a model before or after an adapter was added."""
        return cls(
            config=model.network.config,
            generation=model.network.generation_config,
            source=model.source,
            fingerprint=model.fingerprint,
            fused_head=model.fused_head,
            takes_positions=model.takes_positions,
            attends_by_document=attention.enabled(model.network),
        )

    def build(self) -> LanguageModel:
        """The model before an adapter is added; its parameters and buffers are on the meta device."""
        from transformers import AutoModelForCausalLM

        # `attention.enable` starts from torch's own and registers the other one.
        options = {"attn_implementation": "sdpa"} if self.attends_by_document else {}
        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32, **options)
        network.generation_config = self.generation
        if self.attends_by_document:
            attention.enable(network)
        return LanguageModel(
            network=network,
            source=self.source,
            fingerprint=self.fingerprint,
            fused_head=self.fused_head,
            takes_positions=self.takes_positions,
        )
