"""The same loss curve, step by step, as transformers' Trainer and TRL's SFTTrainer.

All three start from one folder of weights, read the same files, and train in fp32 on CPU with AdamW, clipped
gradients, two microbatches a step and two passes. The peers get the rows in the order in which Nexa takes them;
everything else is theirs: template, tokens, masks, padding, loss, optimizer, schedule, what they report.

Where trainers differ by intent the setting is left out: at a warm-up of n steps the peers' first rate is 0 and
Nexa's is 1/n of the peak; with weight decay they decay embeddings and Nexa does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from arithmetic import DOCUMENTS, write_documents

from nexa.backend import RunState
from nexa.recipe.schema import Recipe
from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.data.order import row_order
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.models import load_model, save_model
from nexa_torch.tasks.registry import load_data_module, load_task

TOLERANCE = 1e-5
"""Relative, for loss and gradient norm of every step. Rounding differs step by step, since the peers pad, mask and
sum otherwise, and AdamW carries it on."""
PASSES, ROWS, ACCUMULATION, ROW = 2, 2, 2, 160
SEED, LR = 42, 3e-3
FIGURES = {"loss": "loss", "grad_norm": "grad_norm", "lr": "learning_rate"}
"""Names of the figures in Nexa's log, and in the peers'."""

SCHEDULES = {"cosine": "cosine_warmup", "linear": "linear"}
"""Nexa's names of the peers' schedules."""

Log = list[dict[str, float]]


class Steps(Callback):
    """Keeps the log of every step."""

    def __init__(self) -> None:
        self.log: Log = []

    def on_log(self, ctx: CallbackContext) -> None:
        """Take a copy of the record."""
        self.log.append(dict(ctx.log))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The documents by method, and a model with its tokenizer as transformers writes them."""
    folder = tmp_path_factory.mktemp("trainers")
    found = {**write_documents(folder), "model": folder / "model", "folder": folder}
    section = {"name": "llama", "tokenizer": "bytes", "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": ROW}
    recipe = Recipe.from_document(_document("sft", found, "linear") | {"model": section})
    data = load_data_module(recipe)
    data.setup("fit")
    model = load_model(recipe.model, data.tokenizer, row_length=ROW, seed=7)
    save_model(model, data.tokenizer, found["model"], model.network.state_dict())
    return found


def _document(method: str, files: Mapping[str, Path], schedule: str) -> dict[str, Any]:
    return {
        "method": method,
        "model": {"name": str(files["model"])},
        "data": {
            "remote_uri": str(files[method]),
            "local_cache_root": str(files["folder"] / "cache"),
            "packing": False,
        },
        "training": {
            "epochs": PASSES,
            "microbatch_size_per_gpu": ROWS,
            "grad_accumulation_steps": ACCUMULATION,
            "log_every_steps": 1,
            "seed": SEED,
        },
        "optimizer": {"lr": LR, "betas": [0.9, 0.95], "scheduler": {"name": SCHEDULES[schedule], "warmup_steps": 0}},
        "cluster": {"threads_per_process": 1},
        "torch": {"cpu_matmul": "native"},
    }


def nexa_log(method: str, files: Mapping[str, Path], schedule: str) -> Log:
    """Train with Nexa's engine."""
    recipe, steps = Recipe.from_document(_document(method, files, schedule)), Steps()
    engine = TrainingEngine(recipe, load_task(recipe, load_data_module(recipe)), callbacks=[steps])
    assert engine.run().state is RunState.COMPLETED
    return steps.log


def peer_arguments(files: Mapping[str, Path], schedule: str) -> dict[str, Any]:
    """The same settings in the peers' words."""
    return {
        "output_dir": str(files["folder"] / "peer"),
        "num_train_epochs": 1,  # the passes stand one after another in the data
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": ACCUMULATION,
        "train_sampling_strategy": "sequential",
        "learning_rate": LR,
        "lr_scheduler_type": schedule,
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def in_order(path: Path) -> list[dict[str, Any]]:
    """The rows of a file as Nexa takes them, pass after pass."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [rows[index] for epoch in range(PASSES) for index in row_order(SEED, epoch, len(rows))]


def transformers_log(method: str, files: Mapping[str, Path], schedule: str) -> Log:
    """Pretraining with transformers: every token of a text, and an end of text behind it."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(files["model"])
    texts = [row["text"] + tokenizer.eos_token for row in in_order(files[method])]
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(files["model"]),
        args=TrainingArguments(**peer_arguments(files, schedule)),
        train_dataset=Dataset.from_dict(dict(tokenizer(texts))),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    return trainer.state.log_history[:-1]


def trl_log(method: str, files: Mapping[str, Path], schedule: str) -> Log:
    """Fine-tuning with TRL on the assistant's turns alone, as the template marks them."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = peer_arguments(files, schedule)
    trainer = SFTTrainer(
        model=str(files["model"]),
        args=SFTConfig(**arguments, max_length=ROW, assistant_only_loss=True, model_init_kwargs={"dtype": "float32"}),
        train_dataset=Dataset.from_list(in_order(files[method])),
        processing_class=AutoTokenizer.from_pretrained(files["model"]),
    )
    trainer.train()
    return trainer.state.log_history[:-1]


@pytest.mark.parametrize(
    ("peer", "method", "schedule"),
    [
        pytest.param(transformers_log, "pretrain", "cosine", id="transformers-pretrain-cosine"),
        pytest.param(trl_log, "sft", "linear", id="trl-sft-linear"),
    ],
)
def test_the_same_curve(
    peer: Callable[[str, Mapping[str, Path], str], Log], method: str, schedule: str, files: dict[str, Path]
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("trl" if peer is trl_log else "accelerate")
    own, other = nexa_log(method, files, schedule), peer(method, files, schedule)
    assert len(own) == len(other) == PASSES * DOCUMENTS // (ROWS * ACCUMULATION)
    for name, theirs in FIGURES.items():
        assert [step[name] for step in own] == pytest.approx([step[theirs] for step in other], rel=TOLERANCE), name
    losses = [step["loss"] for step in own]
    assert losses[-1] < 0.9 * losses[0], "both learn, so that the later steps say something"
