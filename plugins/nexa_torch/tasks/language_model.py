"""Training of causal language models: pretraining and supervised fine-tuning differ in their data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from nexa.errors import UserError
from nexa_torch.compiling import compile_blocks
from nexa_torch.data.language import LanguageDataModule, TokenBatch
from nexa_torch.memory import recompute_activations
from nexa_torch.models import (
    LanguageModel,
    apply_lora,
    load_model,
    restore_weights,
    save_model,
)
from nexa_torch.optimizers import build_optimizer
from nexa_torch.options import torch_options
from nexa_torch.outline import ModelOutline
from nexa_torch.probes import choose_kernels, documents_stay_apart
from nexa_torch.quantize import quantize_linear_layers
from nexa_torch.schedules import recipe_scheduler
from nexa_torch.tasks.base import StepResult, TrainingTask

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

_OVERFLOW = 700.0


class TokenCrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled positions of a batch; 0 where there are none."""

    def __init__(self, chunk: int) -> None:
        """chunk: positions whose logits exist at the same time."""
        super().__init__()
        self.chunk = chunk

    def forward(self, model: LanguageModel, batch: TokenBatch) -> Tensor:
        """A scalar in fp32."""
        return model.loss_sum(batch, scale=1.0 / max(1, batch["trained_tokens"]), chunk=self.chunk)


class LanguageModelTask(TrainingTask):
    """Next-token prediction; the loss of a batch is the mean over the tokens that carry loss."""

    unit: ClassVar[str] = "tokens"
    weight_unit: ClassVar[str | None] = "trained_tokens"

    language: LanguageModel
    """The model as the loss sees it, from `build_model` on."""
    _kernels = "compiled blocks"
    _outline: ModelOutline | None = None

    @property
    def module(self) -> LanguageDataModule:
        """The rows and their tokenizer."""
        assert isinstance(self.data_module, LanguageDataModule), "a language-model task needs a LanguageDataModule"
        return self.data_module

    @property
    def uses_weights(self) -> bool:
        """The fused loss multiplies with the output head itself."""
        return self.language.fused_head

    @property
    def saves_trained_only(self) -> bool:
        """An adapter is saved without the model it changes."""
        return self.language.adapter is not None

    def build_model(self) -> nn.Module:
        """Build or load the recipe's model, with its adapter. Raises UserError where model and data don't fit."""
        recipe = self.recipe
        self.language = self.load_language()
        self._require_fit()
        # Compiled blocks want one shape, where documents have as many as there are lengths, and fuse norms anyway.
        if not recipe.training.compile:
            self._kernels = choose_kernels(self.language, packing=recipe.data.packing)
        if recipe.adapter is not None:
            if recipe.adapter.type == "qlora":
                quantize_linear_layers(self.language.network, recipe.training.precision)
            apply_lora(self.language, recipe.adapter, seed=recipe.training.seed, revision=recipe.model.revision)
        if mode := recipe.training.activation_checkpointing:
            every = recipe.training.checkpoint_every_blocks
            recompute_activations(self.language.network, selective=mode == "selective", every=every)
        if recipe.training.compile:
            compile_blocks(self.language.network)
        return self.language.network

    def outline(self) -> ModelOutline | None:
        """The model's shape; None for weights of 4 bits, whose scales are no parameters."""
        adapter = self.recipe.adapter
        return None if adapter is not None and adapter.type == "qlora" else ModelOutline.of(self.language)

    def build_empty(self, outline: ModelOutline) -> nn.Module:
        """The model without its weights."""
        self._outline = outline
        return self.build_model()

    def load_language(self) -> LanguageModel:
        """The recipe's model before an adapter is added; without weights where they come from another rank."""
        if self._outline is not None:
            return self._outline.build()
        recipe, data = self.recipe, self.module.data
        return load_model(recipe.model, data.tokenizer, row_length=data.row_length, seed=recipe.training.seed)

    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """The recipe's optimizer."""
        return build_optimizer(self.recipe.optimizer, model)

    def build_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The recipe's schedule over the whole run."""
        return recipe_scheduler(self.recipe.optimizer.scheduler, optimizer, self.total_steps)

    def build_criterion(self) -> nn.Module:
        """Cross-entropy that never holds all logits."""
        return TokenCrossEntropy(chunk=torch_options(self.recipe).loss_chunk)

    def train_step(self, batch: TokenBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Mean cross-entropy over the batch's trained tokens."""
        return criterion(self.language, batch), {}

    def validation_step(self, batch: TokenBatch, model: nn.Module, criterion: nn.Module) -> StepResult:
        """The same for held-out rows."""
        return criterion(self.language, batch), {}

    def sampled_step(self, batch: TokenBatch, model: nn.Module, criterion: nn.Module) -> Tensor:
        """The same with every label replaced by a token drawn from the model's prediction."""
        chunk = torch_options(self.recipe).loss_chunk
        return criterion(self.language, {**batch, "labels": self.language.sample_labels(batch, chunk=chunk)})

    def batch_weight(self, batch: TokenBatch) -> int:
        """Trained tokens."""
        return int(batch["trained_tokens"])

    def batch_size(self, batch: TokenBatch) -> int:
        """Tokens, padding not counted."""
        return int(batch["tokens"])

    def summarize(self, values: dict[str, float]) -> dict[str, float]:
        """Add the perplexity, e to the loss."""
        loss = values["eval_loss"]
        return {**values, "perplexity": math.exp(loss) if loss < _OVERFLOW else math.inf}

    def notes(self, model: nn.Module) -> Sequence[str]:
        """The counts of parameters, and how a CPU computes attention and norms."""
        return (*super().notes(model), f"kernels on CPU: {self._kernels}")

    def flops(self, model: nn.Module, units: int) -> float | None:
        """Operations of a training step over `units` tokens of full rows.

        For each token 2 for every weight that multiplies it, in the forward pass and again for the gradient
        of its input, and 2 for each trained one's own gradient; embeddings are looked up, not multiplied. To
        that attention adds 12 × layers × width × (row length ÷ 2), since a token sees half a row on average
        (Chowdhery et al. 2022, appendix B, without the half that a causal mask leaves out).
        """
        network = self.language.network
        config = network.config.get_text_config()
        head = network.get_output_embeddings()
        tied = head is not None and head.weight is network.get_input_embeddings().weight
        looked_up = set() if tied else {id(network.get_input_embeddings().weight)}
        weights = [w for w in model.parameters() if w.ndim >= 2 and id(w) not in looked_up]
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        products = 4.0 * sum(weight.numel() for weight in weights) + 2.0 * trained
        layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
        return units * (products + 6.0 * layers * width * self.module.data.row_length)

    def matmul_shapes(self, model: nn.Module) -> Sequence[tuple[int, int, int]]:
        """Products of a feed-forward layer and of the output head."""
        config = self.language.network.config
        width = int(getattr(config, "hidden_size", 512))
        inner = int(getattr(config, "intermediate_size", 4 * width))
        rows = min(self.recipe.training.microbatch_size_per_gpu * self.module.data.row_length, 2048)
        head = (torch_options(self.recipe).loss_chunk, width, self.language.vocabulary)
        return [(rows, width, inner), (rows, inner, width), head]

    def save(self, model: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write model and tokenizer as transformers, or PEFT for an adapter, reads them."""
        save_model(self.language, self.module.tokenizer, folder, weights)

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Put a checkpoint's weights, or its adapter's, into the model."""
        restore_weights(self.language, folder)

    def _require_fit(self) -> None:
        """Refuse data that the model can't take. Raises UserError."""
        recipe, data, model = self.recipe, self.module.data, self.language
        limit = model.longest_sequence
        if limit is not None and data.row_length > limit:
            raise UserError(
                f"training rows hold {data.row_length} tokens and model {recipe.model.name!r} takes {limit}",
                hint=f"set model.max_seq_len={limit}",
            )
        largest = max(rows.largest_token_id for rows in (data.train, data.validation) if rows is not None)
        if largest >= model.vocabulary:
            raise UserError(
                f"the tokenizer makes token {largest} and model {recipe.model.name!r} knows 0 to "
                f"{model.vocabulary - 1}",
                hint="model.tokenizer belongs to another model; leave it out to use the model's own",
            )
        # Rank 0 has tried it where this one has no weights.
        if recipe.data.packing and self._outline is None and not documents_stay_apart(model):
            raise UserError(
                f"model {recipe.model.name!r} mixes the documents of a packed row", hint="set data.packing=false"
            )
