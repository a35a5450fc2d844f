"""The recipe section `optimizer`: how weights follow from gradients, and at which rate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nexa.recipe.sections.base import Fraction, NonNegativeInt, PositiveInt, Section


class LearningRateSchedule(Section):
    """How the learning rate changes over the run."""

    name: str = "cosine_warmup"
    """Schedule, such as cosine_warmup, linear, constant or wsd; a backend lists its own when the name is unknown."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps over which the rate rises from 0 to lr."""
    min_lr_ratio: Fraction = 0.0
    """Rate at the end, as a share of lr."""
    decay_steps: PositiveInt | None = None
    """wsd: optimizer steps of the final decay. Default: a tenth of the run."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """wsd: how the rate falls in the final decay."""
    cycles: PositiveInt = 2
    """cosine_with_restarts: how often the rate falls from the peak to its end value."""
    monitor: str = "eval_loss"
    """plateau: evaluation metric that must fall, or the rate does."""
    patience: NonNegativeInt = 2
    """plateau: evaluations without improvement that are forgiven before the rate falls."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """plateau: the rate is multiplied by this when it falls, down to min_lr_ratio × lr."""


class OptimizerSection(Section):
    """Which optimizer, and its rates."""

    name: str = "adamw"
    """Optimizer; a backend lists its own when the name is unknown."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; not applied to norms, biases and embeddings."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None
    """Decay rates of the first and second moments. Default: 0.9 and 0.95; lion 0.9 and 0.99, sophia 0.965 and 0.99."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Offset of the denominator. Default: 1e-8; sophia 1e-12, adafactor 1e-3 (of the weights' RMS)."""
    momentum: Fraction | None = None
    """Decay rate of the running gradient of sgd and muon. Default: sgd 0, muon 0.95."""
    hessian_interval: PositiveInt = 10
    """sophia: optimizer steps between estimates of the Hessian's diagonal; each costs one more pass over the batch."""
    hessian_scale: Annotated[float, Field(gt=0)] = 0.05
    """sophia: γ of the paper; the larger, the fewer coordinates are clipped."""
    offload: bool = False
    """Keep the optimizer's state in host memory and update there; slower. Needs a CUDA GPU."""
    scheduler: LearningRateSchedule = LearningRateSchedule.defaults()
    """Learning-rate schedule: a name, or a mapping with its numbers."""

    @model_validator(mode="before")
    @classmethod
    def _schedule_by_name(cls, data: Any) -> Any:
        """A schedule without numbers may be given by its name alone."""
        if isinstance(data, dict) and isinstance(data.get("scheduler"), str):
            return {**data, "scheduler": {"name": data["scheduler"]}}
        return data
