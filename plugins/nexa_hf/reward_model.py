"""Reward models: a language model whose output head gives one score of a conversation instead of the next token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nexa.errors import UserError
from nexa_torch.identity import weights_fingerprint
from nexa_torch.models import LanguageModel, apply_lora, load_model, wrap
from nexa_torch.quantize import quantize_linear_layers
from nexa_torch.scoring import KIND, load_scorer, with_score
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from pathlib import Path

    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import TrainingData


def build_reward_model(recipe: Recipe, data: TrainingData, checkpoint: Path | None) -> LanguageModel:
    """The recipe's model with a head of one score, its adapter, and a checkpoint's weights where one is given.

    The head of a language model is new, and random by the training seed; a reward model keeps its own. Raises
    UserError where the model can't be loaded.
    """
    source = resolve_source(recipe.model.name)
    seed = recipe.training.seed
    tokenizer = data.tokenizer
    if _is_reward_model(source):
        network = load_scorer(str(source.path))
        fingerprint = weights_fingerprint(network)
    else:
        language = load_model(recipe.model, tokenizer, row_length=data.row_length, seed=seed)
        if data.largest_token >= language.vocabulary:
            raise UserError(
                f"the tokenizer makes token {data.largest_token} and model {recipe.model.name!r} knows 0 to "
                f"{language.vocabulary - 1}",
                hint="model.tokenizer belongs to another model; leave it out to use the model's own",
            )
        network = with_score(language.network, seed=seed)
        fingerprint = language.fingerprint
    # The score is read at the last token that is no padding.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    network.config.pad_token_id = pad
    model = wrap(network, source)
    model.fingerprint = fingerprint
    if recipe.adapter is not None:
        if recipe.adapter.type == "qlora":
            quantize_linear_layers(network.base_model, recipe.training.precision)
            network.is_loaded_in_4bit = True
        apply_lora(model, recipe.adapter, seed=seed, revision=recipe.model.revision, task="SEQ_CLS")
    if checkpoint is not None:
        _restore(model, checkpoint)
    return model


def _is_reward_model(source: ModelSource) -> bool:
    if source.kind != "folder" or source.path is None:
        return False
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    return any(name.endswith(KIND) for name in config.get("architectures") or ())


def _restore(model: LanguageModel, checkpoint: Path) -> None:
    if model.adapter is None:
        model.network.load_state_dict(load_scorer(str(checkpoint)).state_dict())
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model.adapter, load_file(checkpoint / "adapter_model.safetensors"))
