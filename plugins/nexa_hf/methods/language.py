"""What pretraining and fine-tuning share: models that predict the next token, and the preview of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nexa.backend import Preparation, PrepareProgress, PreviewToken
    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import Refusal, TrainingData
    from nexa_torch.models import LanguageModel

TRAINING_ARGUMENTS = ("transformers/training_args.py", "TrainingArguments")
TRL_BASE = ("trl/trainer/base_config.py", "_BaseConfig")
PLAIN_TRAINER_REFUSALS: Mapping[str, Refusal] = {
    "training.activation_checkpointing": lambda recipe: (
        "transformers.Trainer recomputes whole blocks; set true or false"
        if recipe.training.activation_checkpointing == "selective"
        else None
    ),
    "training.activation_offload": lambda recipe: "transformers.Trainer keeps activations on their device",
}
"""What methods with transformers' own trainer refuse."""


def build_language_model(
    recipe: Recipe,
    data: TrainingData,
    checkpoint: Path | None,
    change: Callable[[LanguageModel], None] = lambda model: None,
) -> LanguageModel:
    """The recipe's causal language model with its adapter, as it is or as a checkpoint has it.

    change: done to the model before it gets adapter and checkpoint.

    Raises UserError where it can't be loaded, where data and model don't fit, and where an adapter finds no layer.
    """
    from nexa_torch.models import apply_lora, load_model, restore_weights
    from nexa_torch.quantize import quantize_linear_layers

    seed = recipe.training.seed
    model = load_model(recipe.model, data.tokenizer, row_length=data.row_length, seed=seed)
    limit = model.longest_sequence
    if limit is not None and data.row_length > limit:
        raise UserError(
            f"training rows hold {data.row_length} tokens and model {recipe.model.name!r} takes {limit}",
            hint=f"set model.max_seq_len={limit}",
        )
    if data.largest_token >= model.vocabulary:
        raise UserError(
            f"the tokenizer makes token {data.largest_token} and model {recipe.model.name!r} knows 0 to "
            f"{model.vocabulary - 1}",
            hint="model.tokenizer belongs to another model; leave it out to use the model's own",
        )
    change(model)
    if recipe.adapter is not None:
        if recipe.adapter.type == "qlora":
            quantize_linear_layers(model.network, recipe.training.precision)
        apply_lora(model, recipe.adapter, seed=seed, revision=recipe.model.revision)
    if checkpoint is not None:
        restore_weights(model, checkpoint)
    return model


def prepare(recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
    """Encode the recipe's data and keep it, see `nexa.backend.Backend.prepare`."""
    from nexa_torch.data.display import describe
    from nexa_torch.data.prepare import prepare_data

    return describe(prepare_data(recipe, on_progress=on_progress))


def show_rows(recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
    """Training rows as tokens, see `nexa.backend.Backend.show_rows`."""
    from nexa_torch.data.display import show_rows as rows_of

    return rows_of(recipe, start, count)
