"""Small recipes of the Hugging Face backend, run in this process, and the same jobs without Nexa."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from running import Run, tiny_recipe

from nexa.recipe.schema import Recipe
from nexa_hf.run import run_training
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.models import load_model, save_model

STEPS, SEED = 6, 3


def tiny_model(folder: Path, rows: Path) -> Path:
    """A model folder with random weights and a tokenizer of bytes whose template marks the assistant's tokens."""
    section = Recipe.from_document(tiny_recipe(rows)).model
    tokenizer = load_tokenizer(section)
    model = load_model(section, tokenizer, row_length=128, seed=1)
    folder.mkdir(parents=True)
    save_model(model, tokenizer, folder, model.network.state_dict())
    return folder


def hf_recipe(rows: Path, model: Path, /, **sections: Any) -> dict[str, Any]:
    """A recipe that trains `model` on `rows` for a few steps of two microbatches; `sections` are merged over it."""
    document = tiny_recipe(rows)
    document |= {
        "backend": "hf",
        "model": {"name": str(model), "max_seq_len": 128},
        "training": {"max_steps": STEPS, "microbatch_size_per_gpu": 2, "grad_accumulation_steps": 2, "seed": SEED},
        "optimizer": {"lr": 1e-3, "scheduler": {"name": "linear", "warmup_steps": 2}},
        "cluster": {"threads_per_process": 1},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values} if isinstance(values, Mapping) else values
    return document


def hf_run(folder: Path, document: Mapping[str, Any]) -> Run:
    """A run of the backend in `folder`."""
    return Run(folder, document, train=run_training)


def plain_arguments(folder: Path) -> dict[str, Any]:
    """The arguments that a person would write for the job of `hf_recipe`."""
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "seed": SEED,
        "learning_rate": 1e-3,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def logged(trainer: Any) -> dict[int, tuple[float, float, float]]:
    """Loss, gradient norm and rate of each step of a trainer that ran alone."""
    return {
        record["step"]: (record["loss"], record["grad_norm"], record["learning_rate"])
        for record in trainer.state.log_history
        if "loss" in record
    }


def recorded(finished: Any) -> dict[int, tuple[float, float, float]]:
    """The same of a run."""
    losses, norms, rates = (finished.series(name) for name in ("loss", "grad_norm", "lr"))
    return {step: (loss, norms[step], rates[step]) for step, loss in losses.items()}


def hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file of a checkpoint."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {str(file.relative_to(checkpoint)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def one_thread() -> None:
    """Compute as the recipe's worker does, so that sums are added in the same order."""
    torch.set_num_threads(1)
