"""Answers written between steps: the student's own, or its teacher's, as TRL generates them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig
from trl.experimental.gkd import GKDTrainer
from trl.models.utils import unwrap_model_for_generation

from nexa_hf.students import BY_STUDENT, answered, prompt_lengths
from nexa_torch.engine.seeds import dropout_seed
from nexa_torch.generation import chat_stop_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

    from nexa.recipe.schema import Recipe
    from nexa_torch.models import LanguageModel


class AnswerWriter:
    """Writes the last answer of each row of a microbatch anew, or leaves it, as `distill.on_policy` says.

    Who writes and what is drawn follows from seed, step and microbatch alone, so that a resumed run writes the same.
    """

    def __init__(
        self, recipe: Recipe, student: LanguageModel, teacher: LanguageModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._choice, self._seed = recipe.distill.on_policy, recipe.training.seed
        self._teacher = teacher.network
        rollouts = recipe.rollouts
        stops = sorted(chat_stop_tokens(student.network, tokenizer))
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0] if stops else 0
        self._config = GenerationConfig(
            do_sample=True,
            max_new_tokens=rollouts.max_completion_length,
            temperature=rollouts.temperature,
            top_p=rollouts.top_p,
            top_k=rollouts.top_k,
            use_cache=True,
            eos_token_id=stops or None,
            pad_token_id=self._pad,
        )

    def write(self, trainer: Trainer, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The microbatches of the step that a trainer is about to take, with their answers."""
        step, processes = trainer.state.global_step, trainer.accelerator.num_processes
        written = []
        for number, batch in enumerate(batches):
            # Processes agree on who writes: a sharded model writes on all of them together.
            by_student = random.Random(dropout_seed(self._seed, step, number)).random() < self._choice.share
            seed = dropout_seed(self._seed, step, number * processes + trainer.accelerator.process_index)
            if by_student:
                written.append({**self._by_student(trainer, batch, seed), BY_STUDENT: True})
            elif self._choice.others == "teacher":
                self._teacher.to(trainer.args.device)
                written.append(self._answered(self._teacher, batch, seed))
            else:
                written.append(batch)
        return written

    def _by_student(self, trainer: Trainer, batch: Mapping[str, Any], seed: int) -> dict[str, Any]:
        keywords = trainer.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=keywords
        ) as model:
            # What is written is the model's own text, without its dropout.
            model.eval()
            try:
                return self._answered(model, batch, seed)
            finally:
                model.train()

    @torch.no_grad()
    def _answered(self, model: Any, batch: Mapping[str, Any], seed: int) -> dict[str, Any]:
        lengths = prompt_lengths(batch["shift_labels"].cpu().numpy())
        prompts = [row[: max(1, length)].tolist() for row, length in zip(batch["input_ids"], lengths, strict=True)]
        device = next(model.parameters()).device
        inputs = {name: part.to(device) for name, part in _padded_before(prompts, self._pad).items()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            tokens, mask, _ = GKDTrainer.generate_on_policy_outputs(model, inputs, self._config)
        width = inputs["prompts"].shape[1]
        answers = [row[:count].tolist() for row, count in zip(tokens[:, width:], mask[:, width:].sum(1), strict=True)]
        return {
            name: part.to(batch["input_ids"].device) for name, part in answered(prompts, answers, self._pad).items()
        }


def _padded_before(prompts: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Prompts that end together, as TRL takes them."""
    width = max(map(len, prompts))
    rows = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"prompts": torch.tensor(rows), "prompt_attention_mask": torch.tensor(mask)}
