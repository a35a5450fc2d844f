"""A model that a script brings, as a task: any `nn.Module`, or a Hugging Face model that computes its own loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nexa.errors import UserError
from nexa_torch.data.rows import IGNORED
from nexa_torch.optimizers import build_optimizer
from nexa_torch.schedules import recipe_scheduler
from nexa_torch.tasks.base import StepResult, TrainingTask, batch_rows

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa_torch.data.module import BaseDataModule
    from nexa_torch.models import LanguageModel

LABEL_KEYS = ("labels", "label", "targets", "target")


class MatchingLoss(nn.Module):
    """Mean squared error for targets of real numbers, cross-entropy for targets of classes."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs: the shape of `targets`, or [rows, classes, …] for classes. Raises UserError where they differ."""
        if not targets.is_floating_point():
            return nn.functional.cross_entropy(outputs, targets, ignore_index=IGNORED)
        if outputs.shape != targets.shape:
            raise UserError(
                f"the model's output has shape {tuple(outputs.shape)} and the target {tuple(targets.shape)}",
                hint="make them alike (target.unsqueeze(-1)?), or give Trainer a criterion of your own",
            )
        return nn.functional.mse_loss(outputs, targets)


class GivenModelTask(TrainingTask):
    """Trains a given model in place.

    model: its own `loss` is taken where it returns one. criterion: (output, target) → mean loss, for
    models without; default `MatchingLoss`. tokenizer: saved with a Hugging Face model.
    """

    def __init__(
        self,
        config: Any,
        data_module: BaseDataModule | None = None,
        *,
        model: nn.Module | None = None,
        criterion: nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(config, data_module)
        if model is None:
            raise UserError(
                f"{self.recipe.model.name} is a model of a script, which has to be run again to train it",
                hint="in the script: trainer.train(resume_from_checkpoint=True)",
            )
        self._network = model
        self._criterion = criterion
        self._tokenizer = tokenizer
        self._adapted: LanguageModel | None = None
        self._takes = _parameters_of(model)
        self._is_causal = _is_causal(model)
        if self._is_causal:
            # Instances differ in what they count, so the class attributes are overlaid.
            self.unit, self.weight_unit = "tokens", "trained_tokens"  # type: ignore[misc]

    def build_model(self) -> nn.Module:
        """The given model, with the recipe's adapter. Raises UserError for a model that can't have it."""
        adapter = self.recipe.adapter
        if self.recipe.training.activation_checkpointing:
            self._recompute_activations()
        if adapter is None:
            return self._network
        if not _is_hugging_face(self._network):
            raise UserError(
                f"an adapter needs a Hugging Face model, not {type(self._network).__name__}",
                hint="set training_mode to FULL_FINETUNE",
            )
        if adapter.type == "qlora" and not getattr(self._network, "is_loaded_in_4bit", False):
            raise UserError(
                "training_mode QLORA needs a model loaded in 4 bits, and the given one is not",
                hint="load it with a BitsAndBytesConfig(load_in_4bit=True), or set training_mode to LORA",
            )
        self._adapted = self._with_adapter()
        return self._network

    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """The recipe's optimizer."""
        return build_optimizer(self.recipe.optimizer, model)

    def build_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The recipe's schedule over the whole run."""
        return recipe_scheduler(self.recipe.optimizer.scheduler, optimizer, self.total_steps)

    def build_criterion(self) -> nn.Module:
        """The given criterion, or the one that the targets' type calls for."""
        return self._criterion if self._criterion is not None else MatchingLoss()

    def train_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Mean loss of a microbatch."""
        return self._loss(batch, model, criterion), {}

    def validation_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> StepResult:
        """The same for held-out rows."""
        return self._loss(batch, model, criterion), {}

    def batch_weight(self, batch: Any) -> int:
        """Rows; for labels of one class a token, the labels that carry loss."""
        labels = _labels(batch)
        return batch_rows(batch) if labels is None else int(self._counted(labels))

    def batch_size(self, batch: Any) -> int:
        """Tokens that are not padding for a causal language model, else rows."""
        if not self._is_causal or not isinstance(batch, Mapping):
            return batch_rows(batch)
        mask = batch.get("attention_mask", batch.get("input_ids"))
        return int(mask.sum()) if "attention_mask" in batch else int(mask.numel())

    @property
    def saves_trained_only(self) -> bool:
        """An adapter's checkpoint holds the adapter alone."""
        return self._adapted is not None

    def save(self, model: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a Hugging Face model or adapter as its library reads it, any other as weights and `task.json`."""
        if self._adapted is not None:
            from nexa_torch.models import save_adapter

            save_adapter(self._adapted, folder, weights)
        elif _is_hugging_face(model):
            model.save_pretrained(folder, state_dict=dict(weights))  # type: ignore[operator]
        else:
            super().save(model, folder, weights)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(folder)

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Put a checkpoint's weights into the given model."""
        if self._adapted is not None:
            from nexa_torch.models import restore_weights

            restore_weights(self._adapted, folder)
        elif _is_hugging_face(model):
            saved = type(model).from_pretrained(folder, dtype=next(model.parameters()).dtype)  # type: ignore[attr-defined]
            model.load_state_dict(saved.state_dict())
        else:
            super().restore(model, folder)

    def _loss(self, batch: Any, model: nn.Module, criterion: nn.Module) -> Tensor:
        if isinstance(batch, Mapping):
            return self._loss_of_mapping(batch, model, criterion)
        if isinstance(batch, list | tuple) and len(batch) == 2:
            inputs, targets = batch
            return criterion(model(inputs), targets)
        raise UserError(
            f"a batch is a {type(batch).__name__}; it must be a pair (inputs, targets) or a mapping",
            hint="give Trainer a data_collator that makes one, or write a TrainingTask",
        )

    def _loss_of_mapping(self, batch: Mapping[str, Any], model: nn.Module, criterion: nn.Module) -> Tensor:
        inputs = {key: value for key, value in batch.items() if self._takes is None or key in self._takes}
        if self._is_causal and "labels" in batch and self._criterion is None:
            # As a sum over the labels that carry loss, so that a batch without any gives 0, not 0 ÷ 0.
            inputs["num_items_in_batch"] = self._counted(batch["labels"]).clamp(min=1)
        outputs = model(**inputs)
        own = _member(outputs, "loss")
        if own is not None and self._criterion is None:
            return own.mean()
        key = next((key for key in LABEL_KEYS if key in batch), None)
        if key is None:
            raise UserError(
                f"{type(model).__name__} returns no loss and the batch has no target; its keys: {', '.join(batch)}",
                hint=f"name the target one of {', '.join(LABEL_KEYS)}",
            )
        logits = _member(outputs, "logits")
        return criterion(outputs if logits is None else logits, batch[key])

    def _counted(self, labels: Tensor) -> Tensor:
        """How many labels carry loss; a causal model predicts none for the first token of a row."""
        return ((labels[:, 1:] if self._is_causal else labels) != IGNORED).sum()

    def _with_adapter(self) -> LanguageModel:
        from nexa_torch.models import LanguageModel, apply_lora
        from nexa_torch.sources import ModelSource

        assert self.recipe.adapter is not None
        name = str(getattr(self._network.config, "_name_or_path", "") or self.recipe.model.name)
        source = ModelSource(kind="folder", name=name, location=name)
        language = LanguageModel(network=self._network, source=source, takes_positions=False)  # type: ignore[arg-type]
        return apply_lora(language, self.recipe.adapter, seed=self.recipe.training.seed)

    def _recompute_activations(self) -> None:
        """Turn on the model's own checkpointing. Raises UserError for a model or a kind without."""
        kind = self.recipe.training.activation_checkpointing
        if kind is not True:
            raise UserError(
                f"a given model can't recompute activations by {kind!r}", hint="set gradient_checkpointing to True"
            )
        enable = getattr(self._network, "gradient_checkpointing_enable", None)
        if enable is None:
            raise UserError(
                f"{type(self._network).__name__} can't recompute activations: it has no gradient_checkpointing_enable",
                hint="leave gradient_checkpointing out",
            )
        enable({"use_reentrant": False})


def _labels(batch: Any) -> Tensor | None:
    """Labels of one class a token, [rows, tokens] of integers; None where targets are of another kind."""
    target = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(batch, list | tuple) and len(batch) == 2:
        target = batch[1]
    if isinstance(target, Tensor) and target.ndim >= 2 and not target.is_floating_point():
        return target
    return None


def _parameters_of(model: nn.Module) -> frozenset[str] | None:
    """Names of the model's inputs; None where it takes any."""
    parameters = inspect.signature(_base(model).forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()) and not _is_hugging_face(
        model
    ):
        return None
    return frozenset(parameters)


def _base(model: nn.Module) -> nn.Module:
    """The model inside an adapter."""
    found = getattr(model, "get_base_model", None)
    return found() if callable(found) else model


def _is_hugging_face(model: nn.Module) -> bool:
    return hasattr(model, "save_pretrained") and hasattr(model, "config")


def _is_causal(model: nn.Module) -> bool:
    """Whether the model is a causal language model of transformers, which shifts labels itself."""
    if not _is_hugging_face(model):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(_base(model)).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def _member(outputs: Any, name: str) -> Any:
    """A named part of a model's output, None where it has none."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
