"""Writes YAML that readers of YAML 1.1 and 1.2 take for the same values. Standard library only.

Axolotl reads YAML 1.1, where `no` is false and `1e-05` is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", ".nan", ".inf"})


def to_yaml(document: Mapping[str, Any]) -> str:
    """A mapping of JSON values as YAML, one key a line."""
    return "".join(f"{line}\n" for line in _mapping(document, 0))


def _mapping(document: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in document.items():
        name = f"{indent}{_scalar(str(key))}:"
        if isinstance(value, Mapping) and value:
            yield name
            yield from _mapping(value, depth + 1)
        elif isinstance(value, list) and value:
            yield name
            yield from _sequence(value, depth)
        else:
            yield f"{name} {_scalar(value)}"


def _sequence(members: list[Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for member in members:
        if isinstance(member, Mapping) and member:
            first, *rest = _mapping(member, depth + 1)
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(member)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else json.dumps(value)
    if isinstance(value, float):
        mantissa, _, exponent = repr(value).partition("e")
        mantissa += "" if "." in mantissa or not mantissa.lstrip("-").isdigit() else ".0"
        return f"{mantissa}e{exponent}" if exponent else mantissa
    # Inside brackets JSON is YAML; a list in a list is rare enough to stand on one line.
    return json.dumps(value)
