"""What a row means: a conversation, a text or token ids, checked field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from nexa.errors import DataError
from nexa_torch.data.fields import describe, field_names, message_list, require_characters, text_field
from nexa_torch.data.readers import Record

Format = Literal["messages", "prompt_response", "instruction", "text", "tokens"]
_RESPONSES = ("response", "completion")
_OUTPUTS = ("output", "response")
_TOKENS = ("tokens", "input_ids")
_MASKS = ("mask", "loss_mask", "completion_mask", "assistant_masks")
_LAYOUTS = (
    '"messages", "prompt" with "response" (or "completion"), "instruction" with "output" (and "input"), "text", '
    'or "tokens" (or "input_ids")'
)
_IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class Document:
    """One thing to train on, and where it was read.

    One of `messages` (a conversation of {"role", "content"}), `text` and `tokens` (ids) is set. trained: with
    `tokens`, which of them carry loss; None for all.
    """

    place: str
    messages: Sequence[Mapping[str, str]] | None = None
    text: str | None = None
    tokens: Sequence[int] | None = None
    trained: Sequence[bool] | None = None

    @property
    def parts(self) -> Sequence[str]:
        """The texts that were read: the messages' contents, or the one text; nothing for token ids."""
        if self.messages is not None:
            return [message["content"] for message in self.messages]
        return [self.text] if self.text is not None else []

    @property
    def size(self) -> int:
        """Characters, or token ids, of the document."""
        return len(self.tokens) if self.tokens is not None else sum(map(len, self.parts))


def parse_documents(
    records: Iterable[Record], format: Literal["auto"] | Format, *, answers: bool
) -> Iterator[Document]:
    """Check rows and yield them as documents.

    format: row layout; "auto" tells it from the first row. answers: every conversation must hold an
    assistant turn to train on, so plain text is refused. Raises DataError naming file, row and field.
    """
    iterator = iter(records)
    first = next(iterator, None)
    if first is None:
        raise DataError("the data holds no row")
    layout = detect_format(first) if format == "auto" else format
    if answers and layout == "text":
        raise DataError(
            f'{first.place}: rows of plain "text" hold no assistant turns to train on',
            hint="set method: pretrain, or data.train_on: all",
        )
    parse = _PARSERS[layout]
    for record in chain([first], iterator):
        document = parse(record)
        if answers:
            _require_answer(document)
        yield document


def detect_format(record: Record) -> Format:
    """Row layout told from the fields of a row. Raises DataError where none or several fit."""
    fields = record.value
    found: list[Format] = [layout for layout, fits in _LAYOUT_TESTS.items() if fits(fields)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{record.place}: the row's fields {', '.join(map(repr, fields))} make several layouts: {', '.join(found)}",
            hint=f"say which is meant: {' or '.join(f'data.format={layout}' for layout in found)}",
        )
    raise DataError(
        f"{record.place}: the row's fields {', '.join(map(repr, fields))} make no known layout",
        hint=f"a row holds {_LAYOUTS}",
    )


def _require_answer(document: Document) -> None:
    if document.tokens is not None:
        if document.trained is None:
            raise DataError(
                f"{document.place}: the row does not say which of its tokens are answers",
                hint='add "labels" (-100 where there is no loss) or "mask", or set data.train_on: all',
            )
        return
    if any(message["role"] == "assistant" for message in document.messages or ()):
        return
    raise DataError(
        f"{document.place}: messages: no assistant turn to train on",
        hint="remove the row, or set data.train_on: all",
    )


def _parse_messages(record: Record) -> Document:
    return Document(record.place, messages=message_list(record, "messages"))


def _parse_pair(record: Record) -> Document:
    return _exchange(record, text_field(record, "prompt"), _first(record, _RESPONSES))


def _parse_instruction(record: Record) -> Document:
    """Alpaca's layout: the input, where there is one, stands below the instruction in the user's turn."""
    prompt = text_field(record, "instruction")
    more = record.value.get("input")
    if more is not None and not isinstance(more, str):
        raise DataError(f"{record.place}: input: must be text, not {describe(more)}")
    if more and more.strip():
        require_characters(more, f"{record.place}: input")
        prompt = f"{prompt}\n\n{more}"
    return _exchange(record, prompt, _first(record, _OUTPUTS))


def _exchange(record: Record, prompt: str, answer_field: str) -> Document:
    turns = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": text_field(record, answer_field)},
    ]
    if record.value.get("system"):
        turns.insert(0, {"role": "system", "content": text_field(record, "system")})
    return Document(record.place, messages=turns)


def _parse_text(record: Record) -> Document:
    return Document(record.place, text=text_field(record, "text"))


def _parse_tokens(record: Record) -> Document:
    name = _first(record, _TOKENS)
    tokens = _numbers(record, name)
    if not len(tokens):
        raise DataError(f"{record.place}: {name}: the row holds no token")
    if min(tokens) < 0:
        raise DataError(f"{record.place}: {name}: {min(tokens)} is no token id")
    masks = [field for field in ("labels", *_MASKS) if record.value.get(field) is not None]
    if len(masks) > 1:
        raise DataError(f"{record.place}: {' and '.join(masks)} both say what carries loss", hint="keep one of them")
    if not masks:
        return Document(record.place, tokens=tokens)
    marks = _numbers(record, masks[0])
    if len(marks) != len(tokens):
        raise DataError(f"{record.place}: {masks[0]}: {len(marks)} values for {len(tokens)} tokens")
    if masks[0] == "labels":
        trained = [label != _IGNORED_LABEL for label in marks]
        wrong = next((i for i, label in enumerate(marks) if trained[i] and label != tokens[i]), None)
        if wrong is not None:
            raise DataError(
                f"{record.place}: labels[{wrong}]: {marks[wrong]} is neither -100 nor {name}[{wrong}], {tokens[wrong]}",
                hint="labels stand at the places of their tokens; the shift by one is made in training",
            )
    else:
        trained = [bool(mark) for mark in marks]
        wrong = next((i for i, mark in enumerate(marks) if mark not in (0, 1)), None)
        if wrong is not None:
            raise DataError(f"{record.place}: {masks[0]}[{wrong}]: must be 0 or 1, not {marks[wrong]}")
    return Document(record.place, tokens=tokens, trained=trained)


def _numbers(record: Record, field: str) -> list[int]:
    if field not in record.value:
        raise DataError(f"{record.place}: {field}: missing; the row has {field_names(record)}")
    value = record.value[field]
    # Arrays of NumPy files come as they are.
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers, list):
        raise DataError(f"{record.place}: {field}: must be a list of whole numbers, not {describe(numbers)}")
    wrong = next((i for i, number in enumerate(numbers) if type(number) not in (int, bool)), None)
    if wrong is not None:
        raise DataError(f"{record.place}: {field}[{wrong}]: must be a whole number, not {describe(numbers[wrong])}")
    return numbers


def _first(record: Record, names: Sequence[str]) -> str:
    """The first of some names of one field that the row has, else the first name."""
    return next((name for name in names if name in record.value), names[0])


_PARSERS: Mapping[Format, Callable[[Record], Document]] = {
    "messages": _parse_messages,
    "prompt_response": _parse_pair,
    "instruction": _parse_instruction,
    "text": _parse_text,
    "tokens": _parse_tokens,
}

_LAYOUT_TESTS: Mapping[Format, Callable[[Mapping[str, Any]], bool]] = {
    "messages": lambda fields: "messages" in fields,
    "prompt_response": lambda fields: "prompt" in fields and any(name in fields for name in _RESPONSES),
    "instruction": lambda fields: "instruction" in fields and any(name in fields for name in _OUTPUTS),
    "text": lambda fields: "text" in fields,
    "tokens": lambda fields: any(name in fields for name in _TOKENS),
}
