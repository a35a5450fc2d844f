"""A recipe's values before validation: each with the place it was written at.

Layers (extended recipes, the recipe, overrides, flags) are trees of `Node`; `merge` puts one over
another, so that the resolved tree still knows where every value came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

Scalar = None | bool | int | float | str


class OriginKind(StrEnum):
    """Which layer a value came from, strongest first."""

    FLAG = "flag"
    OVERRIDE = "override"
    PYTHON = "python"
    VARIABLE = "variable"
    RECIPE = "recipe"
    EXTENDED = "extended"
    SETTING = "setting"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    file: the recipe or settings file, or the environment variable ("$NEXA_SCHEDULER", "$NEXA_TRAIN_LR");
    None for flags, overrides, values set in Python, and defaults. line, column: from 1, None outside YAML files.
    """

    kind: OriginKind
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{self.kind} {place}" if place else str(self.kind)


@dataclass(frozen=True, slots=True)
class Node:
    """One value, with the origin of the value and, inside a mapping, of its key."""

    value: Scalar | dict[str, Node] | list[Node]
    origin: Origin
    key: Origin | None = None

    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, part: str | int) -> Node | None:
        """The member called `part` of a mapping, or at that index of a list; None where there is none."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None

    def find(self, path: Sequence[str | int]) -> Node | None:
        """The node at `path`, None where there is none."""
        node: Node | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """Dotted key and node of everything that is not a non-empty mapping."""
        if not isinstance(self.value, dict) or not self.value:
            yield prefix, self
            return
        for key, child in self.value.items():
            yield from child.leaves(f"{prefix}.{key}" if prefix else key)


def from_plain(value: Any, origin: Origin) -> Node:
    """Wrap ordinary values; every node gets the same origin."""
    if isinstance(value, Mapping):
        children = {str(key): replace(from_plain(child, origin), key=origin) for key, child in value.items()}
        return Node(children, origin)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(child, origin) for child in value], origin)
    return Node(value, origin)


def nest(dotted: str, node: Node) -> Node:
    """`node` inside mappings, so that it stands at the dotted key."""
    for part in reversed(dotted.split(".")):
        node = Node({part: replace(node, key=node.origin)}, node.origin)
    return node


def merge(base: Node, top: Node) -> Node:
    """`top` over `base`: mappings merge key by key at every depth, everything else is replaced."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return replace(top, value=merged)


def set_path(root: Node, path: Sequence[str], node: Node | None) -> Node:
    """A copy of `root` with `node` at `path` (removed for None); `root` itself where the path is absent."""
    if not path or not isinstance(root.value, dict) or path[0] not in root.value:
        return root
    children = dict(root.value)
    if len(path) > 1:
        children[path[0]] = set_path(children[path[0]], path[1:], node)
    elif node is None:
        del children[path[0]]
    else:
        children[path[0]] = node
    return replace(root, value=children)
