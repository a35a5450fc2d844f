"""What a row means: a conversation or a text, checked field by field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from nexa.errors import DataError
from nexa_torch.data.readers import Record

Format = Literal["messages", "prompt_response", "text"]
ROLES = ("system", "user", "assistant")
_RESPONSES = ("response", "completion")
_LAYOUTS = '"messages", "prompt" with "response" (or "completion"), or "text"'


@dataclass(frozen=True, slots=True)
class Document:
    """One thing to train on, and where it was read.

    Either `messages` (a conversation of {"role", "content"}) or `text` is set.
    """

    place: str
    messages: Sequence[Mapping[str, str]] | None = None
    text: str | None = None

    @property
    def parts(self) -> Sequence[str]:
        """The texts that were read: the messages' contents, or the one text."""
        if self.messages is None:
            return [self.text or ""]
        return [message["content"] for message in self.messages]


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
    parse = {"messages": _parse_messages, "prompt_response": _parse_pair, "text": _parse_text}[layout]
    for record in chain([first], iterator):
        document = parse(record)
        if answers and not any(message["role"] == "assistant" for message in document.messages or ()):
            raise DataError(
                f"{record.place}: messages: no assistant turn to train on",
                hint="remove the row, or set data.train_on: all",
            )
        yield document


def detect_format(record: Record) -> Format:
    """Row layout told from the fields of a row."""
    fields = record.value
    if "messages" in fields:
        return "messages"
    if "prompt" in fields and any(name in fields for name in _RESPONSES):
        return "prompt_response"
    if "text" in fields:
        return "text"
    raise DataError(
        f"{record.place}: the row's fields {', '.join(map(repr, fields))} make no known layout",
        hint=f"a row holds {_LAYOUTS}",
    )


def _parse_messages(record: Record) -> Document:
    messages = record.value.get("messages")
    if messages is None:
        raise DataError(f"{record.place}: messages: missing; the row has {_names(record)}")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{record.place}: messages: must be a list of at least one message, not {_describe(messages)}")
    checked = [_parse_message(message, f"{record.place}: messages[{i}]") for i, message in enumerate(messages)]
    return Document(record.place, messages=checked)


def _parse_message(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f'{place}: must be {{"role": …, "content": …}}, not {_describe(message)}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        problem = "missing" if role is None else f"unknown role {role!r}"
        raise DataError(f"{place}.role: {problem}", hint=f"known roles: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{place}.content: must be text, not {_describe(content)}")
    # Tool calls and the like would be dropped by keeping role and content alone.
    extra = [name for name, value in message.items() if name not in ("role", "content") and value]
    if extra:
        raise DataError(
            f"{place}: has {', '.join(map(repr, extra))}, which can't be trained on", hint="remove the field"
        )
    if role != "system" and not content.strip():
        raise DataError(f"{place}.content: the text is empty")
    _require_characters(content, f"{place}.content")
    return {"role": role, "content": content}


def _parse_pair(record: Record) -> Document:
    name = next((name for name in _RESPONSES if name in record.value), _RESPONSES[0])
    turns = []
    for role, field in (("user", "prompt"), ("assistant", name)):
        content = _text_field(record, field)
        turns.append({"role": role, "content": content})
    return Document(record.place, messages=turns)


def _parse_text(record: Record) -> Document:
    return Document(record.place, text=_text_field(record, "text"))


def _text_field(record: Record, field: str) -> str:
    if field not in record.value:
        raise DataError(f"{record.place}: {field}: missing; the row has {_names(record)}")
    value = record.value[field]
    if not isinstance(value, str):
        raise DataError(f"{record.place}: {field}: must be text, not {_describe(value)}")
    if not value.strip():
        raise DataError(f"{record.place}: {field}: the text is empty")
    _require_characters(value, f"{record.place}: {field}")
    return value


def _require_characters(value: str, place: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is no character.
        raise DataError(f"{place}: half a surrogate pair at character {error.start + 1}") from None


def _names(record: Record) -> str:
    return ", ".join(map(repr, record.value)) or "no field"


def _describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
