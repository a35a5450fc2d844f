"""Nexa's names for optimizers and schedules in Axolotl's words. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class OptimizerName:
    """One optimizer.

    name: value of Axolotl's `optimizer`. betas, eps: what an unset (null) field of the recipe means; None where
    the optimizer takes no such number from Axolotl. needs_gpu: its kernels run on CUDA alone.
    """

    name: str
    betas: tuple[float, float] | None = None
    eps: float | None = None
    needs_gpu: bool = False


OPTIMIZERS: Mapping[str, OptimizerName] = {
    "adamw": OptimizerName(name="adamw_torch", betas=(0.9, 0.95), eps=1e-8),
    "adamw_8bit": OptimizerName(name="adamw_bnb_8bit", betas=(0.9, 0.95), eps=1e-8, needs_gpu=True),
    "lion": OptimizerName(name="lion_32bit", betas=(0.9, 0.99), needs_gpu=True),
    "muon": OptimizerName(name="muon", betas=(0.9, 0.95), eps=1e-8),
    "adafactor": OptimizerName(name="adafactor"),
    "sgd": OptimizerName(name="sgd"),
}
OPTIMIZER_FIELDS = ("betas", "eps", "momentum", "hessian_interval", "hessian_scale")
"""Fields of the recipe's optimizer section that only some optimizers use."""


@dataclass(frozen=True, kw_only=True)
class ScheduleName:
    """One schedule: value of Axolotl's `lr_scheduler`, and the recipe's fields that it heeds."""

    name: str
    fields: tuple[str, ...] = ()


SCHEDULES: Mapping[str, ScheduleName] = {
    "cosine_warmup": ScheduleName(name="cosine", fields=("min_lr_ratio",)),
    "cosine_with_restarts": ScheduleName(name="cosine_with_restarts", fields=("cycles",)),
    "linear": ScheduleName(name="linear"),
    "constant": ScheduleName(name="constant_with_warmup"),
    "wsd": ScheduleName(name="warmup_stable_decay", fields=("min_lr_ratio", "decay_steps", "decay_shape")),
    "inverse_sqrt": ScheduleName(name="inverse_sqrt"),
}
SCHEDULE_FIELDS = ("min_lr_ratio", "decay_steps", "decay_shape", "cycles", "monitor", "patience", "factor")
"""Fields of the recipe's schedule section that only some schedules use."""

PRECISIONS: Mapping[str, Mapping[str, bool]] = {
    "fp32": {"bf16": False, "fp16": False, "tf32": False},
    "tf32": {"bf16": False, "fp16": False, "tf32": True},
    "bf16": {"bf16": True, "fp16": False, "tf32": False},
    "fp16": {"bf16": False, "fp16": True, "tf32": False},
}
"""Axolotl's three switches for each precision."""

WSD_DECAY_SHAPES = {"linear": "linear", "cosine": "cosine", "1-sqrt": "1-sqrt"}
"""Shapes of the final decay in transformers' words."""


def wsd_options(decay_steps: int, decay_shape: str, min_lr_ratio: float) -> dict[str, Any]:
    """Arguments of transformers' warmup-stable-decay schedule."""
    return {
        "num_decay_steps": decay_steps,
        "decay_type": WSD_DECAY_SHAPES[decay_shape],
        "min_lr_ratio": min_lr_ratio,
    }


DIRECT: Mapping[str, str] = {
    "base_model": "model.name",
    "revision_of_model": "model.revision",
    "sequence_len": "model.max_seq_len",
    "sample_packing": "data.packing",
    "dataloader_num_workers": "data.loader_workers",
    "micro_batch_size": "training.microbatch_size_per_gpu",
    "gradient_accumulation_steps": "training.grad_accumulation_steps",
    "max_steps": "training.max_steps",
    "num_epochs": "training.epochs",
    "logging_steps": "training.log_every_steps",
    "save_steps": "training.save_every_steps",
    "eval_steps": "training.eval_every_steps",
    "max_grad_norm": "training.max_grad_norm",
    "seed": "training.seed",
    "torch_compile": "training.compile",
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "adam_epsilon": "optimizer.eps",
    "warmup_steps": "optimizer.scheduler.warmup_steps",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "peft_use_dora": "adapter.use_dora",
    "peft_use_rslora": "adapter.use_rslora",
}
"""Axolotl's keys whose value a recipe says under another name."""
