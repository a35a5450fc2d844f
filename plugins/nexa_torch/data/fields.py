"""Fields of a data row, checked one by one: what is wrong names file, row and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexa.errors import DataError
from nexa_torch.data.readers import Record

ROLES = ("system", "user", "assistant")


def message_list(record: Record, field: str) -> list[Mapping[str, str]]:
    """The messages {"role", "content"} in a field. Raises DataError."""
    messages = record.value.get(field)
    if messages is None:
        raise DataError(f"{record.place}: {field}: missing; the row has {field_names(record)}")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{record.place}: {field}: must be a list of at least one message, not {describe(messages)}")
    for i, message in enumerate(messages):
        if not _is_plain(message):
            messages[i] = _parse_message(message, f"{record.place}: {field}[{i}]")
    return messages


def text_field(record: Record, field: str) -> str:
    """The text in a field, which is not empty. Raises DataError."""
    if field not in record.value:
        raise DataError(f"{record.place}: {field}: missing; the row has {field_names(record)}")
    value = record.value[field]
    if not isinstance(value, str):
        raise DataError(f"{record.place}: {field}: must be text, not {describe(value)}")
    if not value.strip():
        raise DataError(f"{record.place}: {field}: the text is empty")
    require_characters(value, f"{record.place}: {field}")
    return value


def require_characters(value: str, place: str) -> None:
    """Raise DataError where text holds half a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is no character.
        raise DataError(f"{place}: half a surrogate pair at character {error.start + 1}") from None


def _parse_message(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f'{place}: must be {{"role": …, "content": …}}, not {describe(message)}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        problem = "missing" if role is None else f"unknown role {role!r}"
        raise DataError(f"{place}.role: {problem}", hint=f"known roles: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{place}.content: must be text, not {describe(content)}")
    # Tool calls and the like would be dropped by keeping role and content alone.
    extra = [name for name, value in message.items() if name not in ("role", "content") and value]
    if extra:
        raise DataError(
            f"{place}: has {', '.join(map(repr, extra))}, which can't be trained on", hint="remove the field"
        )
    if role != "system" and not content.strip():
        raise DataError(f"{place}.content: the text is empty")
    require_characters(content, f"{place}.content")
    return {"role": role, "content": content}


def _is_plain(message: Any) -> bool:
    """Whether a message needs no further check: role and content alone, in plain characters. Most are."""
    if type(message) is not dict or len(message) != 2 or message.get("role") not in ROLES:
        return False
    content = message.get("content")
    return type(content) is str and content.isascii() and bool(content) and not content.isspace()


def field_names(record: Record) -> str:
    """The fields of a row, for a message."""
    return ", ".join(map(repr, record.value)) or "no field"


def describe(value: Any) -> str:
    """A value, for a message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
