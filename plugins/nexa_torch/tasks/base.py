"""The contract of a task: its model, optimizer, schedule and loss, and what one batch does with them.

A task knows nothing of epochs, processes, gradient accumulation or checkpoints; the engine does.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nexa.errors import UserError
from nexa_torch.batches import batch_rows
from nexa_torch.tasks.registry import TASK_FILE

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from nexa.recipe.schema import Recipe
    from nexa_torch.data.module import BaseDataModule

WEIGHTS_FILE = "model.safetensors"

StepResult = tuple[Tensor, Mapping[str, Any]]
"""Mean loss of a batch as a scalar tensor, and further figures of it: tensors or numbers, also means."""


class TrainingTask(ABC):
    """What is trained. `nexa.testing.task.TaskContract` tests one.

    recipe: the run's recipe; `options` is its section of the task's name. data_module: the run's
    data, already set up when the build methods are called; None where a task is used without one.
    total_steps: optimizer steps of the run, set by the engine before `build_scheduler`.
    """

    unit: ClassVar[str] = "samples"
    """What throughput counts, as in "samples_per_second"."""
    weight_unit: ClassVar[str | None] = None
    """What `batch_weight` counts, where that is something else, as in "trained_tokens_per_second"."""

    @property
    def uses_weights(self) -> bool:
        """Whether the step methods use weights of the model other than by calling the model.

        A sharded model then puts together, for the time of a step method, what no block of it holds.
        """
        return False

    @property
    def saves_trained_only(self) -> bool:
        """Whether a checkpoint holds only the parameters that are trained, as an adapter's does."""
        return False

    def __init__(self, config: Any, data_module: BaseDataModule | None = None) -> None:
        """config: a recipe, or anything whose `recipe` is one, such as `nexa_torch.Config`."""
        self.recipe: Recipe = getattr(config, "recipe", config)
        self.data_module = data_module
        self.total_steps = 0

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the model on CPU, its weights a function of `recipe.training.seed` or loaded."""

    def outline(self) -> Any:
        """What `build_empty` must know of the model that `build_model` made, to be pickled; None where that won't do.

        With it a sharded model is loaded by rank 0 alone, and no other rank ever holds it whole.
        """
        return None

    def build_empty(self, outline: Any) -> nn.Module:
        """Return the model of an `outline` on another rank, its weights on torch's meta device.

        They come from rank 0.
        """
        raise NotImplementedError(f"{type(self).__name__} gives an outline and builds no model of it")

    @abstractmethod
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer over the trained parameters of `model`."""

    @abstractmethod
    def build_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the learning-rate schedule, stepped once after every optimizer step; None keeps the rate."""

    @abstractmethod
    def build_criterion(self) -> nn.Module:
        """Return the loss function that the step methods are given."""

    @abstractmethod
    def train_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Return the mean loss of one microbatch, with its graph, and further figures.

        The mean is over `batch_weight(batch)` things. The engine weighs the microbatches of a step by
        it, so that any division of a batch gives the gradient of the whole. `batch` is on the model's
        device; the figures must not be read from the device here, which would hold up the step.
        """

    @abstractmethod
    def validation_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> StepResult:
        """Return the mean loss of one held-out batch and further figures; gradients are off."""

    def sampled_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> Tensor:
        """Return the mean loss of a microbatch whose labels are drawn from the model's own predictions.

        Optimizers that estimate curvature (sophia) need it. Raises UserError where the task has none.
        """
        raise UserError(
            f"task {type(self).__name__} can't draw labels from its model, which optimizer "
            f"{self.recipe.optimizer.name!r} needs",
            hint="choose another optimizer, such as optimizer.name=adamw, or give the task a sampled_step",
        )

    def batch_weight(self, batch: Any) -> int:
        """What the mean loss of a batch is a mean over: its rows. Called before the batch leaves the CPU."""
        return batch_rows(batch)

    def batch_size(self, batch: Any) -> int:
        """Units (see `unit`) that a batch holds, for throughput. Called before the batch leaves the CPU."""
        return batch_rows(batch)

    def summarize(self, values: dict[str, float]) -> dict[str, float]:
        """Complete the figures of an evaluation, such as with a perplexity; `values` has "eval_loss"."""
        return values

    def flops(self, model: nn.Module, units: int) -> float | None:
        """Floating-point operations of one training step over `units`; None where not known.

        By default 6 for each trained parameter and unit: 2 in the forward pass, 4 in the backward pass,
        which holds for layers that multiply every parameter once with every unit.
        """
        return 6.0 * units * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    def matmul_shapes(self, model: nn.Module) -> Sequence[tuple[int, int, int]]:
        """(m, k, n) of the model's typical matrix products, to choose their CPU library by; empty: no choice."""
        return ()

    def notes(self, model: nn.Module) -> Sequence[str]:
        """What a person should read in the log before the first step, one line each."""
        total = sum(parameter.numel() for parameter in model.parameters())
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return (f"{total:,} parameters, {trained:,} trained",)

    def save(self, model: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the weights into a checkpoint folder: `model.safetensors`, and `task.json` to rebuild by.

        weights: what to write, by its name in `model.state_dict()`, whole. The model's own may be shards,
        or of a later step already. Called on rank 0 alone.
        """
        save_file(_without_shared(weights), folder / WEIGHTS_FILE, {"format": "pt"})
        document = {
            "task": self.recipe.method,
            "model": self.recipe.model.model_dump(mode="json"),
            "options": self.options,
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
        }
        (folder / TASK_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Put the weights of a checkpoint folder into the model. Raises UserError where they don't fit."""
        file = folder / WEIGHTS_FILE
        if not file.is_file():
            raise UserError(f"checkpoint {folder} has no {WEIGHTS_FILE}", hint="it belongs to another task")
        try:
            missing, unexpected = _load(model, file)
        except RuntimeError as error:
            raise UserError(f"{file} belongs to another model: {str(error).splitlines()[-1].strip()}") from error
        if missing or unexpected:
            names = ", ".join(sorted([*missing, *unexpected])[:3])
            raise UserError(f"{file} belongs to another model: it differs in {names}")

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's section of this task's name; empty where it has none."""
        return dict(self.recipe.plugin_options.get(self.recipe.method, {}))


def _without_shared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that share memory once, under the first of their names."""
    kept: dict[tuple[int, torch.Size], str] = {}
    for name, value in weights.items():
        kept.setdefault((value.data_ptr() or id(value), value.shape), name)
    return {name: weights[name].contiguous() for name in kept.values()}


def _load(model: nn.Module, file: Path) -> tuple[list[str], list[str]]:
    """Load what fits by name; shared weights are stored once. Returns missing and unexpected names."""
    result = model.load_state_dict(load_file(file), strict=False)
    aliases: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        aliases.setdefault(tensor.data_ptr(), []).append(name)
    missing = set(result.missing_keys)
    shared = {name for names in aliases.values() if not set(names) <= missing for name in names}
    return sorted(missing - shared), list(result.unexpected_keys)
