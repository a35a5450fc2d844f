"""Strict YAML 1.2: text in, `Node` tree out, every key and value with its line and column.

Built on the parser's events, so nothing in a file can construct an object. Refused, each with its
place: tags, anchors, aliases, merge keys, duplicate keys, keys that are not text, several documents,
directives other than `%YAML 1.2`, numbers that are not finite, and anything past the limits below.
Plain scalars follow the YAML 1.2 core schema: `1e-5` is a float; `no`, `on` and dates are text.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from nexa.errors import Problem, RecipeError
from nexa.recipe.node import Node, Origin, OriginKind, Scalar

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
MAX_NODES = 4_000
MAX_PROBLEMS = 50
MAX_DIGITS = 400

# What YAML's set of printable characters lacks.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_yaml(path: Path, kind: OriginKind = OriginKind.RECIPE) -> Node:
    """Parse the file at `path`.

    Raises RecipeError with every problem found: unreadable, too large, not UTF-8, not strict YAML.
    """
    file = str(path)
    try:
        mode = path.stat()
        if not stat.S_ISREG(mode.st_mode):
            _fail("not a regular file", file)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        _fail(f"can't be read: {error.strerror or error}", file)
    if len(data) > MAX_BYTES:
        _fail(f"larger than {MAX_BYTES // 1024} KiB, too large for a recipe", file, 1, 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start].decode("utf-8", "replace"))
        _fail(f"not UTF-8: byte 0x{data[error.start]:02x}", file, line, column)
    return parse_yaml(text, file, kind)


def parse_yaml(text: str, file: str | None = None, kind: OriginKind = OriginKind.RECIPE) -> Node:
    """Parse one YAML document. Raises RecipeError with every problem found."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        line, column = _position(text[: bad.start()])
        _fail(f"control character U+{ord(bad.group()):04X} is not allowed", file, line, column)
    return _Builder(text, file, kind).build()


def resolve_scalar(text: str) -> Scalar:
    """The value of a plain scalar under the YAML 1.2 core schema.

    Raises ValueError for infinity, NaN, and numbers too long or too large to be meant.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits is too long")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text[:40]} is too large for a number")
        return number
    return text


def _fail(message: str, file: str | None, line: int | None = None, column: int | None = None) -> NoReturn:
    raise RecipeError([Problem(message=message, file=file, line=line, column=column)])


def _position(before: str) -> tuple[int, int]:
    """Line and column, from 1, of the character that follows `before`."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _Builder:
    """Builds the tree from parser events; goes on after what is not a syntax error, to report it all."""

    def __init__(self, text: str, file: str | None, kind: OriginKind) -> None:
        self._events = self._parse(text)
        self._file = file
        self._kind = kind
        self._problems: list[Problem] = []
        self._nodes = 0

    def build(self) -> Node:
        """The document's root node. Raises RecipeError."""
        self._next("StreamStartEvent")
        event = next(self._events)
        if _is(event, "StreamEndEvent"):
            return Node(None, Origin(self._kind, self._file, 1, 1))
        self._check_directives(event)
        root = self._node(next(self._events), 1)
        self._next("DocumentEndEvent")
        event = next(self._events)
        if not _is(event, "StreamEndEvent"):
            self._problem(event, "a second document; a recipe is one document")
        if self._problems:
            raise RecipeError(self._problems)
        return root

    def _parse(self, text: str) -> Iterator[Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError

        yaml = YAML(typ="safe", pure=True)
        yaml.Scanner = _shallow_scanner()
        events = yaml.parse(text)
        while True:
            try:
                event = next(events)
            except StopIteration:
                return
            except MarkedYAMLError as error:
                mark = error.problem_mark or error.context_mark
                message = " ".join(part for part in (error.context, error.problem) if part)
                self._stop(f"not YAML: {message}", mark)
            # The parser itself fails on some hostile text (an escape beyond Unicode); any such
            # failure means that the text is not YAML.
            except Exception as error:
                self._stop(f"not YAML: {error}", None)
            yield event

    def _stop(self, message: str, mark: Any) -> NoReturn:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        problem = Problem(message=message, file=self._file, line=line, column=column)
        raise RecipeError([*self._problems, problem])

    def _next(self, kind: str) -> None:
        event = next(self._events)
        if not _is(event, kind):
            self._stop(f"not YAML: unexpected {type(event).__name__}", event.start_mark)

    def _origin(self, event: Any) -> Origin:
        return Origin(self._kind, self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, event: Any, message: str, *, hint: str | None = None) -> None:
        place = self._origin(event)
        self._problems.append(
            Problem(message=message, file=place.file, line=place.line, column=place.column, hint=hint)
        )
        if len(self._problems) >= MAX_PROBLEMS:
            raise RecipeError(self._problems, hint=f"stopped after {MAX_PROBLEMS} problems")

    def _check_directives(self, event: Any) -> None:
        if event.tags:
            self._problem(event, "%TAG directives are not allowed in a recipe")
        if event.version is not None and tuple(event.version) != (1, 2):
            self._problem(event, "only YAML 1.2 is read")

    def _node(self, event: Any, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(f"more than {MAX_NODES} values, too many for a recipe", event.start_mark)
        if depth > MAX_DEPTH:
            self._stop(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        origin = self._origin(event)
        if _is(event, "AliasEvent"):
            self._problem(event, f"alias *{event.anchor} is not allowed", hint="write the value out, or use `extends`")
            return Node(None, origin)
        if event.anchor is not None:
            self._problem(event, f"anchor &{event.anchor} is not allowed", hint="write the value out, or use `extends`")
        if event.tag is not None:
            self._problem(event, f"tag {event.tag} is not allowed; a recipe holds plain values only")
        if _is(event, "MappingStartEvent"):
            return Node(self._mapping(depth), origin)
        if _is(event, "SequenceStartEvent"):
            return Node(self._sequence(depth), origin)
        return Node(self._scalar(event), origin)

    def _mapping(self, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not _is(event := next(self._events), "MappingEndEvent"):
            key_node = self._node(event, depth + 1)
            child = replace(self._node(next(self._events), depth + 1), key=key_node.origin)
            key = key_node.value
            if key == "<<" and event.style is None:
                self._problem(event, "merge key << is not allowed", hint="use `extends`")
            elif not isinstance(key, str):
                self._problem(event, "a key must be text", hint="put it in quotes")
            elif key in children:
                first = children[key].key
                self._problem(
                    event, f"key {key!r} is given twice", hint=f"first on line {first.line if first else '?'}"
                )
            else:
                children[key] = child
        return children

    def _sequence(self, depth: int) -> list[Node]:
        children: list[Node] = []
        while not _is(event := next(self._events), "SequenceEndEvent"):
            children.append(self._node(event, depth + 1))
        return children

    def _scalar(self, event: Any) -> Scalar:
        text: str = event.value
        if _SURROGATE.search(text):
            self._problem(event, "half of a surrogate pair is not a character")
            return ""
        if event.style is not None or event.tag is not None:
            return text
        try:
            return resolve_scalar(text)
        except ValueError as error:
            self._problem(event, str(error), hint="put it in quotes if it is text")
            return None


@cache
def _shallow_scanner() -> type[Any]:
    """A scanner that stops at `MAX_DEPTH` open brackets, since its look-ahead is quadratic in them."""
    from ruamel.yaml.scanner import Scanner, ScannerError

    class ShallowScanner(Scanner):
        def fetch_flow_collection_start(self, token_class: Any, to_push: str) -> None:
            if len(self.flow_context) >= MAX_DEPTH:
                raise ScannerError(None, None, f"nested deeper than {MAX_DEPTH} levels", self.reader.get_mark())
            super().fetch_flow_collection_start(token_class, to_push)

    return ShallowScanner


def _is(event: Any, kind: str) -> bool:
    return type(event).__name__ == kind
