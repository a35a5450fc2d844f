"""A recipe file's text with values changed in it; comments, order and spelling of the rest stay."""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SCHEDULE = ("optimizer", "scheduler")
_INDENTED_ITEM = re.compile(r"^(?P<key> *)[\w-]+:[^\S\n]*(#.*)?\n(?P<item> *)- ", re.MULTILINE)
# Where ruamel keeps the comment that follows an entry, in the comment list of a mapping's or a list's entry.
_AFTER_KEY, _AFTER_ITEM = 2, 0


def edited_text(text: str, edits: Mapping[str, Any], *, nulls: Iterable[str] = ()) -> str:
    """The YAML document `text` with each dotted key of `edits` set to its value.

    None removes the key, so that its default holds again; a key in `nulls` is set to null instead,
    where that says more than its absence. A document without edits is returned as it is.
    """
    if not edits:
        return text
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.allow_unicode = True
    item = _INDENTED_ITEM.search(text)
    offset = len(item["item"]) - len(item["key"]) if item else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    yaml.representer.add_representer(type(None), _represent_null)
    document = yaml.load(text)
    kept = frozenset(nulls)
    for path, value in edits.items():
        parts = path.split(".")
        if value is None and path not in kept:
            _remove(document, parts)
        else:
            _set(document, parts, value)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def unified_diff(before: str, after: str, *, name: str) -> str:
    """What changed between two texts as a unified diff; empty when nothing did."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), fromfile=name, tofile=f"{name} (edited)", n=2, lineterm=""
    )
    return "\n".join(lines)


def _represent_null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _set(document: Any, parts: Sequence[str], value: Any) -> None:
    section = document
    for depth, part in enumerate(parts[:-1], start=1):
        inner = section.get(part)
        if not isinstance(inner, dict):
            named = isinstance(inner, str) and tuple(parts[:depth]) == _SCHEDULE
            for missing in reversed(parts[depth:]):
                value = {missing: value}
            _put(section, part, {"name": inner, **value} if named else value)
            return
        section = inner
    _put(section, parts[-1], value)


def _put(section: Any, key: str, value: Any) -> None:
    """Set one key, keeping what follows it, or the section's end, where it is."""
    old = key if key in section else next(reversed(section), None)
    tail = "" if old is None else _take_tail(section, old, whole_end=key not in section)
    section[key] = _commented(value)
    _give_tail(section, key, tail)


def _remove(document: Any, parts: Sequence[str]) -> None:
    """Remove a key, and sections that are empty without it; comments about what follows stay."""
    sections = [document]
    for part in parts[:-1]:
        inner = sections[-1].get(part)
        if not isinstance(inner, dict):
            return
        sections.append(inner)
    for section, part in zip(reversed(sections), reversed(parts), strict=True):
        if part not in section:
            return
        keys = list(section)
        place = keys.index(part)
        if len(keys) == 1 and section is not document:
            continue
        tail = _take_tail(section, part, whole_end=True)
        del section[part]
        if place:
            _give_tail(section, keys[place - 1], tail)
        elif tail.strip() and len(keys) > 1:
            lines = [line.strip().removeprefix("#").strip() for line in tail.strip().splitlines()]
            section.yaml_set_comment_before_after_key(keys[1], before="\n".join(lines))
        return


def _commented(value: Any) -> Any:
    """A value that comments can be attached to."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        return CommentedMap({key: _commented(member) for key, member in value.items()})
    return CommentedSeq(map(_commented, value)) if isinstance(value, list) else value


def _last(section: Any, key: Any) -> tuple[Any, Any]:
    """Container and key of the last line that the entry `key` takes up in block style."""
    value = section[key]
    while hasattr(value, "fa") and value and not value.fa.flow_style():
        section, key = value, (next(reversed(value)) if isinstance(value, dict) else len(value) - 1)
        value = section[key]
    return section, key


def _take_tail(section: Any, key: Any, *, whole_end: bool) -> str:
    """Cut off the blank and comment lines after an entry; a comment beside it stays unless the entry is removed."""
    section, key = _last(section, key)
    tokens = section.ca.items.get(key)
    slot = _AFTER_KEY if isinstance(section, dict) else _AFTER_ITEM
    token = tokens[slot] if tokens and len(tokens) > slot else None
    if token is None or isinstance(token, list):
        return ""
    beside, newline, tail = token.value.partition("\n")
    if beside.strip():
        token.value = beside + newline
    elif whole_end or isinstance(section, list):
        tokens[slot] = None
    return str(tail)


def _give_tail(section: Any, key: Any, tail: str) -> None:
    """Put blank and comment lines after an entry, behind a comment that stands beside it."""
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    if not tail:
        return
    section, key = _last(section, key)
    mapping = isinstance(section, dict)
    tokens = section.ca.items.setdefault(key, [None, None, None, None] if mapping else [None, None])
    slot = _AFTER_KEY if mapping else _AFTER_ITEM
    if tokens[slot] is not None:
        tokens[slot].value += tail
    else:
        tokens[slot] = CommentToken("\n" + tail, CommentMark(0), None)
