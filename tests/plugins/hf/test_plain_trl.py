"""Preference and reward methods compute what TRL computes outside Nexa, to the last printed digit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("trl")

from datasets import Dataset
from hf_running import hf_run, logged, one_thread, recorded, tiny_model
from preference_rows import LETTER, ROLLOUTS, pairs, preference_recipe
from running import chat_rows
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from nexa_torch.scoring import with_score

STEPS, SEED = 3, 7
PAIR = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


def has_letter(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """The recipe's reward `format`, as a person would write it for TRL."""
    return [float(re.fullmatch(LETTER, answer[0]["content"].strip(), re.DOTALL) is not None) for answer in completions]


def pair_rows() -> Dataset:
    """The pairs as conversations."""
    return Dataset.from_list(
        [{key: [{"role": role, "content": row[key]}] for key, role in PAIR.items()} for row in pairs()]
    )


def judged_rows() -> Dataset:
    """A good and a bad answer of each pair, in the order in which Nexa trains on them."""
    rows = [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": text}], "label": good}
        for row in pair_rows().rename_columns({"chosen": "good", "rejected": "bad"})
        for good, text in ((True, row["good"][0]["content"]), (False, row["bad"][0]["content"]))
    ]
    Random(SEED).shuffle(rows)
    return Dataset.from_list(rows)


def prompt_rows() -> Dataset:
    """The pairs' prompts."""
    return pair_rows().select_columns(["prompt"])


def language_model(folder: Path) -> Any:
    """The folder's model."""
    return AutoModelForCausalLM.from_pretrained(folder)


def scorer(folder: Path) -> Any:
    """A classifier with one random output, which a person may seed as they like; here as Nexa does."""
    network = with_score(language_model(folder), seed=SEED)
    network.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    return network


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A method in plain TRL.

    settings: arguments beyond those that all share. reference: whether the trainer takes a reference model.
    keywords: other keyword arguments of the trainer.
    """

    trainer: type
    arguments: type
    rows: Callable[[], Dataset]
    model: Callable[[Path], Any] = language_model
    settings: Mapping[str, Any] = field(default_factory=lambda: {"max_length": 96})
    reference: bool = False
    keywords: Mapping[str, Any] = field(default_factory=dict)


PEERS = {
    "dpo": Peer(
        trainer=DPOTrainer,
        arguments=DPOConfig,
        rows=pair_rows,
        reference=True,
    ),
    "kto": Peer(
        trainer=KTOTrainer,
        arguments=KTOConfig,
        rows=judged_rows,
        reference=True,
    ),
    "orpo": Peer(trainer=ORPOTrainer, arguments=ORPOConfig, rows=pair_rows),
    "reward": Peer(
        trainer=RewardTrainer,
        arguments=RewardConfig,
        rows=pair_rows,
        model=scorer,
    ),
    "grpo": Peer(
        trainer=GRPOTrainer,
        arguments=GRPOConfig,
        rows=prompt_rows,
        settings={
            **{"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "gradient_accumulation_steps": 2},
            **{"top_k": 0, "disable_dropout": False},
        },
        keywords={"reward_funcs": has_letter},
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "base", chat_rows(tmp_path_factory.mktemp("rows"), 2))


@pytest.mark.parametrize("method", PEERS)
def test_a_method_is_that_of_plain_trl(tmp_path: Path, model: Path, method: str) -> None:
    """Losses, gradient norms and rates of every step, from the rows as a person would give them to TRL."""
    sections = {"rollouts": {**ROLLOUTS, "kl_beta": 0.05}} if method == "grpo" else {}
    recipe = preference_recipe(tmp_path, method, sections, max_steps=STEPS)
    recipe["model"] = {"name": str(model), "max_seq_len": 96}
    ours = recorded(hf_run(tmp_path / "ours", recipe).attempt())
    one_thread()
    peer = PEERS[method]
    reference = {"ref_model": language_model(model)} if peer.reference else {}
    trainer = peer.trainer(
        model=peer.model(model),
        args=peer.arguments(
            **{
                **{"output_dir": str(tmp_path / "trl"), "seed": SEED, "max_steps": STEPS},
                **{"per_device_train_batch_size": 2, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"},
                **{"adam_beta2": 0.95, "logging_steps": 1, "gradient_checkpointing": False, "bf16": False},
                **{"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
                **peer.settings,
            }
        ),
        train_dataset=peer.rows(),
        processing_class=AutoTokenizer.from_pretrained(model),
        **reference,
        **peer.keywords,
    )
    trainer.train()
    assert len(ours) == STEPS
    assert all(norm > 0 for _, norm, _ in ours.values())
    assert ours == logged(trainer)
