"""Rows of preference data: two answers of which one is better, one answer that is good or bad, or a prompt alone.

A prompt or answer is text, which becomes a user's or an assistant's turn, or a list of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from nexa.errors import DataError
from nexa_torch.data.fields import describe, field_names, message_list, text_field
from nexa_torch.data.readers import Record

Messages = Sequence[Mapping[str, str]]
PreferenceFormat = Literal["preference", "unpaired", "prompts"]
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Example:
    """A checked row. `prompt` ends with a user's turn.

    answers: of a pair the better and the worse, of an unpaired row the one, of a prompt none; each is one or more
    turns that begin and end with the assistant's. good: whether the answer of an unpaired row is good, else None.
    row: every column but the prompt, of a prompt without answers.
    """

    place: str
    prompt: Messages
    answers: tuple[Messages, ...] = ()
    good: bool | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conversations(self) -> list[Messages]:
        """The prompt with each of its answers, or alone where it has none."""
        return [[*self.prompt, *answer] for answer in self.answers] or [self.prompt]


def parse_examples(records: Iterable[Record], format: PreferenceFormat) -> Iterator[Example]:
    """Check rows and yield them. Raises DataError naming file, row and field."""
    iterator = iter(records)
    first = next(iterator, None)
    if first is None:
        raise DataError("the data holds no row")
    parse = _PARSERS[format]
    for record in chain([first], iterator):
        yield parse(record)


def detect_preference(record: Record, accepted: Sequence[PreferenceFormat]) -> PreferenceFormat:
    """The row layout, among the accepted ones, that the fields of a row make. Raises DataError where none fits."""
    fits = [layout for layout in accepted if _FIELDS[layout] <= set(record.value)]
    if fits:
        return fits[0]
    # Of a pair without its worse answer, the missing field says more than the layout.
    nearest = max(accepted, key=lambda layout: len(_FIELDS[layout] & set(record.value)))
    missing = sorted(_FIELDS[nearest] - set(record.value))
    if len(missing) < len(_FIELDS[nearest]):
        raise DataError(
            f"{record.place}: {', '.join(missing)}: missing; the row has {field_names(record)}", hint=_wanted(accepted)
        )
    raise DataError(
        f"{record.place}: the row's fields {field_names(record)} make no layout that can be trained on here",
        hint=_wanted(accepted),
    )


def unpair(example: Example) -> list[Example]:
    """A pair as two rows, a good one and a bad one; other rows as they are."""
    if len(example.answers) != 2:
        return [example]
    return [
        Example(example.place, example.prompt, (answer,), good=good)
        for answer, good in zip(example.answers, (True, False), strict=True)
    ]


def _wanted(accepted: Sequence[PreferenceFormat]) -> str:
    layouts = [", ".join(f'"{name}"' for name in _SHOWN_FIELDS[layout]) for layout in accepted]
    return f"a row holds {'; or '.join(layouts)}"


def _parse_pair(record: Record) -> Example:
    for name in ("chosen", "rejected"):
        value = record.value.get(name)
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            better = "rejected" if name == "chosen" else "chosen"
            raise DataError(
                f"{record.place}: {name}: {_MISSING if value is None else 'empty'}; a pair needs an answer that is "
                f"{'better' if name == 'chosen' else 'worse'} than the {better} one",
                hint="remove the row; rows with one answer and a label are for method kto",
            )
    if record.value.get("prompt") is None:
        prompt, chosen, rejected = _shared_beginning(record)
    else:
        prompt = _prompt(record)
        chosen, rejected = _answer(record, "chosen", prompt), _answer(record, "rejected", prompt)
    if _contents(chosen) == _contents(rejected):
        raise DataError(
            f"{record.place}: chosen and rejected are the same answer, which says nothing of what is better",
            hint="remove the row",
        )
    return Example(record.place, prompt, (chosen, rejected))


def _parse_unpaired(record: Record) -> Example:
    prompt = _prompt(record)
    answer = _answer(record, "completion", prompt)
    label = record.value.get("label")
    if label not in (True, False) or not isinstance(label, bool | int):
        problem = _MISSING if label is None else f"must be true (a good answer) or false, not {describe(label)}"
        raise DataError(f"{record.place}: label: {problem}")
    return Example(record.place, prompt, (answer,), good=bool(label))


def _parse_prompt(record: Record) -> Example:
    row = {name: value for name, value in record.value.items() if name not in ("prompt", "system")}
    return Example(record.place, _prompt(record), row=row)


def _prompt(record: Record) -> Messages:
    if isinstance(record.value.get("prompt"), list):
        prompt = message_list(record, "prompt")
        if prompt[-1]["role"] != "user":
            raise DataError(
                f"{record.place}: prompt: ends with a turn of role {prompt[-1]['role']!r}; an answer follows a user's"
            )
    else:
        prompt = [{"role": "user", "content": text_field(record, "prompt")}]
    if record.value.get("system"):
        if prompt[0]["role"] == "system":
            raise DataError(f"{record.place}: system: the prompt begins with a system turn already", hint="keep one")
        prompt = [{"role": "system", "content": text_field(record, "system")}, *prompt]
    return prompt


def _answer(record: Record, name: str, prompt: Messages) -> Messages:
    """The turns of an answer, without the prompt where the row repeats it."""
    if not isinstance(record.value.get(name), list):
        return [{"role": "assistant", "content": text_field(record, name)}]
    answer: Messages = message_list(record, name)
    if list(answer[: len(prompt)]) == list(prompt):
        answer = answer[len(prompt) :]
    return _require_assistant(record, name, answer)


def _require_assistant(record: Record, name: str, answer: Messages) -> Messages:
    if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        raise DataError(f"{record.place}: {name}: an answer begins and ends with a turn of role 'assistant'")
    return answer


def _shared_beginning(record: Record) -> tuple[Messages, Messages, Messages]:
    """Prompt and both answers of two whole conversations: the prompt is what they share."""
    for name in ("chosen", "rejected"):
        if not isinstance(record.value[name], list):
            raise DataError(f"{record.place}: prompt: {_MISSING}; the row has {field_names(record)}")
    chosen, rejected = message_list(record, "chosen"), message_list(record, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == min(len(chosen), len(rejected)):
        raise DataError(
            f"{record.place}: chosen and rejected are the same answer, which says nothing of what is better",
            hint="remove the row",
        )
    # Equal first turns of different answers belong to the answers.
    while shared and chosen[shared - 1]["role"] != "user":
        shared -= 1
    if not shared:
        raise DataError(
            f"{record.place}: chosen and rejected share no beginning that ends with a user's turn",
            hint='give the shared turns as "prompt"',
        )
    return (
        chosen[:shared],
        _require_assistant(record, "chosen", chosen[shared:]),
        _require_assistant(record, "rejected", rejected[shared:]),
    )


def _contents(answer: Messages) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in answer]


_FIELDS: Mapping[PreferenceFormat, frozenset[str]] = {
    "preference": frozenset({"chosen", "rejected"}),
    "unpaired": frozenset({"prompt", "completion", "label"}),
    "prompts": frozenset({"prompt"}),
}
"""Fields that every row of a layout has."""

_SHOWN_FIELDS: Mapping[PreferenceFormat, Sequence[str]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt", "any columns that rewards read"),
}

_PARSERS: Mapping[PreferenceFormat, Callable[[Record], Example]] = {
    "preference": _parse_pair,
    "unpaired": _parse_unpaired,
    "prompts": _parse_prompt,
}
