"""Models that score a text: a language model's blocks under a head of one number."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification

from nexa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "ForSequenceClassification"
"""How the architectures of such models end."""


def with_score(network: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """A model of one score with the blocks of a language model; its head is random by `seed`.

    Raises UserError where transformers has no such model of this kind.
    """
    config = copy.deepcopy(network.config)
    config.num_labels = 1
    torch.manual_seed(seed)
    try:
        scorer: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UserError(
            f"transformers has no model of kind {config.model_type!r} that scores a whole text: "
            f"{str(error).splitlines()[0]}"
        ) from error
    scorer.base_model.load_state_dict(network.base_model.state_dict())
    return scorer.eval()


def load_scorer(location: str) -> PreTrainedModel:
    """A model that scores, in fp32, from a folder."""
    model: Any = AutoModelForSequenceClassification
    network: PreTrainedModel = model.from_pretrained(
        location, num_labels=1, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    return network.eval()
