"""TrainingConfigs to start from, each number with its reason. No torch."""

from __future__ import annotations

from typing import Any

from nexa_torch.training_config import TrainingConfig, TrainingMode

_WARMUP_STEPS = 2000


def get_qlora_config(model_name: str, **changes: Any) -> TrainingConfig:
    """QLoRA fine-tuning of an existing model on one CUDA GPU.

    - 4-bit NF4 base weights, adapters on every linear layer: layers left out cost quality, the rank
      hardly matters (Dettmers et al. 2023, "QLoRA", §4). Rank 16, scaled by alpha ÷ rank = 2.
    - Peak rate 2e-4, gradients clipped to norm 0.3, 16 rows a step: the paper's values for 7B and 13B.
    - Dropout 0.05 on the adapters' input: the paper's for 33B and 65B, between none and its 0.1 for 7B.
    - AdamW without weight decay: the trained parameters are about 1 % of the model, so that 8-bit
      optimizer state would save next to nothing.
    - bf16 needs no loss scaling; activations are recomputed, since memory is what QLoRA is short of.

    changes: fields of TrainingConfig to set otherwise. A machine without such a GPU refuses it at launch.
    """
    preset: dict[str, Any] = {
        "training_mode": TrainingMode.QLORA,
        "model_name": model_name,
        "precision": "bf16",
        "optimizer": "adamw",
        "learning_rate": 2e-4,
        "scheduler": "cosine",
        "warmup_steps": 20,
        "max_grad_norm": 0.3,
        "batch_size": 1,
        "gradient_accumulation_steps": 16,
        "gradient_checkpointing": True,
        "lora_r": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.05,
        "gpus_per_node": 1,
    }
    return TrainingConfig(**{**preset, **changes})


def get_pretraining_config(model_name: str, **changes: Any) -> TrainingConfig:
    """Pretraining from random weights, or continued from existing ones, for throughput.

    - AdamW with betas 0.9 and 0.95, weight decay 0.1, gradients clipped to norm 1, peak rate 3e-4, cosine
      down to a tenth of it: Llama (Touvron et al. 2023, §2.3), with GPT-3's rate for 0.3B to 1B parameters.
    - 2,000 steps of warm-up as there, but at most a tenth of `max_steps`.
    - bf16 arithmetic, packed rows, no recomputed activations: each is the faster choice, where memory allows.

    model_name: an architecture such as "llama", with d_model, n_layers, n_heads and tokenizer among the
    changes, or an existing model. changes: fields of TrainingConfig to set otherwise.
    """
    max_steps = changes.get("max_steps")
    preset: dict[str, Any] = {
        "training_mode": TrainingMode.PRETRAINING,
        "model_name": model_name,
        "precision": "bf16",
        "optimizer": "adamw",
        "betas": [0.9, 0.95],
        "weight_decay": 0.1,
        "learning_rate": 3e-4,
        "scheduler": "cosine",
        "warmup_steps": _WARMUP_STEPS if max_steps is None else min(_WARMUP_STEPS, max_steps // 10),
        "min_lr_ratio": 0.1,
        "max_grad_norm": 1.0,
        "batch_size": 8,
        "packing": True,
        "gradient_checkpointing": False,
    }
    return TrainingConfig(**{**preset, **changes})
