"""The recipe section `training`: how long, in which batches, in which arithmetic."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.recipe.sections.base import PositiveInt, Section


class EarlyStoppingSection(Section):
    """When training ends before its last step: when a figure has not become better for a while."""

    monitor: str = "eval_loss"
    """Figure of an evaluation that is watched, such as eval_loss; val_loss means the same."""
    patience: PositiveInt = 5
    """Evaluations without an improvement after which training ends."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better; auto is min for losses, errors and perplexity, else max."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change that counts as an improvement, in the figure's own unit."""
    restore_best: bool = False
    """End with the weights of the best evaluation instead of the last step's."""


class TrainingSection(Section):
    """How long and in which batches."""

    global_batch_size: PositiveInt | None = None
    """Rows in one optimizer step over all processes. Default: microbatch × processes × accumulation."""
    microbatch_size_per_gpu: PositiveInt = 1
    """Rows in one forward pass of one process."""
    grad_accumulation_steps: PositiveInt | None = None
    """Forward passes per optimizer step. Default: global ÷ (microbatch × processes), or 1."""
    max_steps: PositiveInt | None = None
    """Optimizer steps to train. Excludes epochs."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the data. Default: 1 when max_steps is unset. Excludes max_steps."""
    save_every_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints. Default: only the last step is saved."""
    eval_every_steps: PositiveInt | None = None
    """Optimizer steps between evaluations. Default: only before the first and after the last step."""
    eval_every_epochs: PositiveInt | None = None
    """Passes over the data between evaluations, beside those by steps. Default: none by epochs."""
    early_stopping: EarlyStoppingSection | None = None
    """End training when a figure stops improving. Default: train to the last step."""
    log_every_steps: PositiveInt = 1
    """Optimizer steps between metric records."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights stay fp32. tf32 needs a CUDA GPU; fp16 scales the loss."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global L2 norm; null turns clipping off."""
    measure_mfu: bool = False
    """Log the share of the device's peak arithmetic that training reaches, as mfu; a CPU's is measured at start."""
    profile_steps: PositiveInt | None = None
    """Optimizer steps recorded with the torch profiler, after two to warm up, into the run's folder. Default: none."""
    activation_checkpointing: bool | Literal["selective"] = False
    """Recompute activations in the backward pass: true keeps each block's input alone (less memory, about a
    third slower); "selective" also keeps the results of matrix products and attention and recomputes the rest."""
    checkpoint_every_blocks: PositiveInt = 1
    """With activation_checkpointing, recompute every so many-th block; the others keep all their activations."""
    activation_offload: bool = False
    """Keep what the backward pass needs in host memory instead of the GPU's; slower. Needs a CUDA GPU."""
    compile: bool = False
    """Compile the model's blocks with torch.compile: half a minute more at the start, faster steps on a GPU."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of weights, sample order and dropout."""

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError("max_steps and epochs exclude each other; keep one (null takes back an inherited one)")
        return self
