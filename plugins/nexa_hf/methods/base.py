"""What one training method of this backend is made of; no torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexa.recipe.schema import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from nexa.backend import Preparation, PrepareProgress, Preview, PreviewToken
    from nexa.errors import Problem
    from nexa_torch.models import LanguageModel

Arguments = Mapping[str, Any]
"""Keyword arguments of a method's argument class; "a.b" is key b of the mapping that argument a takes."""
Translation = Callable[[Recipe], Arguments]
"""What one recipe field becomes; empty where the field changes nothing."""
Refusal = Callable[[Recipe], "str | None"]
"""Why a recipe field is not heeded; None where it is."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a method trains on.

    train, evaluation: as the trainer takes them; evaluation is None where nothing is held out. fingerprint:
    SHA-256 of the training data in hex, the same in every attempt. rows: training examples before the trainer
    packs them. row_length: most tokens of one; largest_token: largest token id that occurs.
    notes, warnings: for the log, one line each. lineage: what checkpoints record of the data. inputs: hashes of what
    they are made from, the fingerprint where there are none.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Any
    evaluation: Any | None
    fingerprint: str
    rows: int
    row_length: int
    largest_token: int
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A method's run, ready for its trainer to be made."""

    recipe: Recipe
    method: Method
    data: TrainingData
    model: LanguageModel


def _nothing(recipe: Recipe) -> Iterable[Problem]:
    return ()


def _no_keywords(job: Job) -> Mapping[str, Any]:
    return {}


COUNT = "token_count"
"""Entry of a microbatch that says how many of its tokens are no padding, where its tensors don't; taken out before
the model sees the batch."""


def count_tokens(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of a microbatch without padding, and those that carry loss, as far as its tensors say."""
    labels = inputs.get("shift_labels", inputs.get("labels"))
    trained = int((labels != -100).sum()) if labels is not None else 0
    for name, count in _COUNTS.items():
        if name in inputs:
            return count(inputs[name]), trained
    return 0, trained


_COUNTS: Mapping[str, Callable[[Any], int]] = {
    COUNT: int,
    "attention_mask": lambda mask: int(mask.sum()),
    "input_ids": lambda tokens: int(tokens.numel()),
}


def _save_model(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: Mapping[str, Any]
) -> None:
    from nexa_torch.models import save_model

    save_model(model, tokenizer, folder, weights)


@dataclass(frozen=True, kw_only=True)
class Logits:
    """Logits in memory at once: all tokens of a microbatch times at most `columns` of the vocabulary (None: all),
    in fp32, `copies` times on a CPU and `gpu_copies` times on a GPU; measured by the peak of two steps on a CPU.
    """

    copies: float
    gpu_copies: float
    columns: int | None = None


TRL_TILES = Logits(copies=7, gpu_copies=2, columns=32768)
"""TRL's fused head goes over the vocabulary in tiles; without Triton each of its operations makes a tile anew."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of training: which trainer, with which arguments, on which data.

    trainer: "module:attribute" of the trainer class. arguments_class: the same of its argument class.
    fields: (path in its package, class) of the argument class and its bases, the class first; they are read
    as text, so that names are checked without an import.
    arguments: translations of recipe fields beside, or in place of, those that all methods share.
    fixed: arguments that are no recipe field's. sized: those that follow from the data, where no recipe
    field sets them. refusals: recipe fields this method does not heed, and why.
    honoured: recipe fields that only this method heeds, without a TRL argument of their own.
    notes: what to know of a recipe field besides its arguments, for the settings report.
    load: tokenizer and data, in the worker; on_progress may raise to stop the run.
    build: the model, in fp32 on the CPU, with its adapter; resumed from the checkpoint folder where given.
    keywords: further keyword arguments of the trainer. count: tokens and trained tokens of a microbatch.
    preview: the first batch. prepare, show_rows: where the method's data can be made ready before a run.
    check: problems of a recipe that only this method has. samples: whether the model writes text on prompts.
    perplexity: whether e to the evaluation loss is one. save: write model and tokenizer into a folder.
    logits: how much of the logits the loss holds at once, for the memory estimate.
    slow: what the person should know where Nexa's own engine serves the method faster, for the plan's notes.
    """

    name: str
    summary: str
    trainer: str
    arguments_class: str
    fields: Sequence[tuple[str, str]]
    load: Callable[[Recipe, PrepareProgress], TrainingData]
    build: Callable[[Recipe, TrainingData, Path | None], LanguageModel]
    preview: Callable[[Recipe], Preview]
    arguments: Mapping[str, Translation] = field(default_factory=dict)
    fixed: Callable[[Recipe], Arguments] = lambda recipe: {}
    sized: Callable[[TrainingData], Arguments] = lambda data: {}
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    honoured: Sequence[str] = ()
    notes: Mapping[str, Refusal] = field(default_factory=dict)
    keywords: Callable[[Job], Mapping[str, Any]] = _no_keywords
    count: Callable[[Mapping[str, Any]], tuple[int, int]] = count_tokens
    check: Callable[[Recipe], Iterable[Problem]] = _nothing
    prepare: Callable[..., Preparation] | None = None
    show_rows: Callable[[Recipe, int, int], Sequence[Sequence[PreviewToken]]] | None = None
    samples: bool = True
    perplexity: bool = False
    save: Callable[[LanguageModel, PreTrainedTokenizerBase, Path, Mapping[str, Any]], None] = _save_model
    logits: Logits = TRL_TILES
    slow: str = ""
