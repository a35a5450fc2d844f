"""Preference rows as data sets of token ids, in the columns that TRL's trainers read.

Token ids are those that TRL's own preparation makes: the prompt is rendered with the template's request to answer,
prompt and answer together without it, and an answer begins where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, Any

from nexa.backend import PrepareProgress
from nexa.errors import DataError
from nexa_torch.data.documents import Document
from nexa_torch.data.preferences import Example, PreferenceFormat, detect_preference, parse_examples
from nexa_torch.data.prepare import hold_out, open_training, open_validation
from nexa_torch.data.template import ChatTemplate
from nexa_torch.data.tokenizer import load_tokenizer, row_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import TrainingData
    from nexa_torch.data.sources import Source

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Tokens:
    """An example as token ids: its prompt, and each of its answers behind it."""

    example: Example
    prompt: list[int]
    answers: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(map(len, self.answers), default=0)


@dataclass(kw_only=True)
class PreferenceRows:
    """Checked and encoded examples.

    train, held_out: examples as token ids; held_out is None where nothing is held out. dropped: how many were left
    out for their length, cut: of how many an answer is cut. warnings: what a person should know, in words.
    """

    tokenizer: PreTrainedTokenizerBase
    train: list[Tokens]
    held_out: list[Tokens] | None
    row_length: int
    source: Source
    dropped: int = 0
    cut: int = 0
    warnings: list[str] = field(default_factory=list)

    def examples(self) -> Iterator[Tokens]:
        """All examples, those held out last."""
        return chain(self.train, self.held_out or ())


def load_preferences(
    recipe: Recipe,
    on_progress: PrepareProgress,
    *,
    accepted: Sequence[PreferenceFormat],
    expand: Callable[[Example], list[Example]] = lambda example: [example],
    cuts_answers: bool = True,
    reserved: int = 0,
) -> PreferenceRows:
    """Read, check and encode the recipe's rows.

    accepted: layouts that the method trains on, told from the first row unless data.format names one. expand: turns
    a row into those that are trained on. cuts_answers: answers that do not fit a row are cut at its end, and only
    prompts that fill it are left out; otherwise all longer conversations are left out. reserved: tokens of a row that
    are kept free behind a prompt.
    Raises DataError naming file and row, where the chat template drops a system turn, and where no row is left.
    """
    on_progress("loading", 0, 1)
    # Rewards may read any column.
    source, other = open_training(recipe, columns=None), open_validation(recipe, columns=None)
    tokenizer = load_tokenizer(recipe.model)
    on_progress("loading", 1, 1)
    data, held = recipe.data, recipe.data.validation
    train = _read(source, recipe, accepted, expand, limit=None if held.fraction else data.max_documents)
    validation: list[Example] | None = None
    if other is not None:
        validation = _read(other, recipe, accepted, expand, limit=held.max_documents)
    elif held.fraction is not None:
        kept, chosen = hold_out(len(train), held.fraction, recipe.training.seed, source.uri)
        validation = [train[i] for i in chosen[: held.max_documents]]
        train = [train[i] for i in kept[: data.max_documents]]
    encoder = _Encoder(tokenizer, row_length(recipe.model), cuts_answers=cuts_answers, reserved=reserved)
    total = len(train) + len(validation or ())
    encoded = encoder.encode(train, source.uri, lambda done: on_progress("tokenizing", done, total))
    held_out = None
    if validation is not None:
        uri = (other or source).uri
        held_out = encoder.encode(validation, uri, lambda done: on_progress("tokenizing", len(train) + done, total))
    source.require_same()
    return PreferenceRows(
        tokenizer=tokenizer,
        train=encoded,
        held_out=held_out,
        row_length=encoder.row_length,
        source=source,
        dropped=encoder.dropped,
        cut=encoder.cut,
        warnings=encoder.warnings(),
    )


def training_data(
    rows: PreferenceRows, column_of: Callable[[Tokens], dict[str, Any]], *, shuffle_seed: int | None = None
) -> TrainingData:
    """What a trainer trains on; `column_of` turns an example into a row of its data set.

    shuffle_seed: bring training rows into a seeded order first, for trainers that take them one after another.
    """
    from datasets import Dataset

    from nexa_hf.methods.base import TrainingData

    train = list(rows.train)
    if shuffle_seed is not None:
        Random(shuffle_seed).shuffle(train)
    largest = max(max(chain(row.prompt, *row.answers)) for row in rows.examples())
    held = "" if rows.held_out is None else f"; {len(rows.held_out):,} held out"
    return TrainingData(
        tokenizer=rows.tokenizer,
        train=Dataset.from_list([column_of(row) for row in train]),
        evaluation=None if rows.held_out is None else Dataset.from_list([column_of(row) for row in rows.held_out]),
        fingerprint=rows.source.sha256,
        rows=len(train),
        row_length=rows.row_length,
        largest_token=largest,
        notes=[f"{len(train):,} examples, the longest of {max(row.longest for row in train):,} tokens{held}"],
        warnings=rows.warnings,
        lineage={"dataset": {"hash": rows.source.sha256}},
    )


def _read(
    source: Source,
    recipe: Recipe,
    accepted: Sequence[PreferenceFormat],
    expand: Callable[[Example], list[Example]],
    *,
    limit: int | None,
) -> list[Example]:
    records = source.records()
    first = next(records, None)
    if first is None:
        raise DataError(f"{source.uri}: the data holds no row")
    # The settings refuse a layout that is not accepted.
    layout = next((each for each in accepted if each == recipe.data.format), None) or detect_preference(first, accepted)
    examples = islice(parse_examples(chain([first], records), layout), limit)
    return [row for example in examples for row in expand(example)]


class _Encoder:
    """Renders and tokenizes examples, and counts those that do not fit."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, *, cuts_answers: bool, reserved: int) -> None:
        self.row_length = length
        self._reserved = reserved
        self.dropped = self.cut = 0
        self._first_dropped = self._first_cut = ""
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._cuts_answers = cuts_answers

    def encode(self, examples: Sequence[Example], uri: str, report: Callable[[int], None]) -> list[Tokens]:
        """Token ids of all examples that fit. Raises DataError, also where none is left."""
        fitting: list[Tokens] = []
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            fitting += [row for row in self._encode(batch) if self._fits(row)]
            report(start + len(batch))
        if not fitting:
            raise DataError(
                f"{uri}: none of {len(examples)} examples fits a row of {self.row_length} tokens",
                hint="raise model.max_seq_len, or shorten the prompts",
            )
        return fitting

    def warnings(self) -> list[str]:
        """What a person should know about rows that do not fit."""
        found = []
        if self.dropped:
            what = "prompts that fill" if self._cuts_answers else "longer than"
            found.append(
                f"examples left out, {what} a row of {self.row_length - self._reserved} tokens: {self.dropped} "
                f"(first: {self._first_dropped})"
            )
        if self.cut:
            found.append(f"answers cut to fit a row of {self.row_length} tokens: {self.cut} (first: {self._first_cut})")
        return found

    def _encode(self, examples: Sequence[Example]) -> Iterator[Tokens]:
        documents = [
            Document(example.place, messages=conversation)
            for example in examples
            for conversation in example.conversations
        ]
        rendered = self._template.render(documents, mask=False)
        for warning in self._template.warnings:
            if "drops the system turn" in warning:
                raise DataError(
                    warning, hint="set model.chat_template to a template that renders it, or remove the system turns"
                )
        prompts = self._tokenize(
            self._tokenizer.apply_chat_template(
                [list(example.prompt) for example in examples], tokenize=False, add_generation_prompt=True
            )
        )
        whole = iter(self._tokenize([each.text for each in rendered]))
        for example, prompt in zip(examples, prompts, strict=True):
            conversations = [next(whole) for _ in example.conversations]
            if not example.answers:
                yield Tokens(example, prompt, [])
                continue
            begins = min(_shared(prompt, ids) for ids in conversations)
            answers = [ids[begins:] for ids in conversations]
            if len(answers) > 1 and answers[0] == answers[1]:
                raise DataError(
                    f"{example.place}: chosen and rejected become the same tokens, since the chat template leaves out "
                    "where they differ",
                    hint="remove the row, or set model.chat_template to a template that renders it",
                )
            yield Tokens(example, prompt[:begins], answers)

    def _tokenize(self, texts: Any) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _fits(self, row: Tokens) -> bool:
        if len(row.prompt) < self.row_length and row.longest + self._reserved <= self.row_length:
            return True
        if self._cuts_answers and len(row.prompt) < self.row_length:
            self.cut += 1
            self._first_cut = self._first_cut or row.example.place
            return True
        self.dropped += 1
        self._first_dropped = self._first_dropped or row.example.place
        return False


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading ids that two sequences have in common."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
